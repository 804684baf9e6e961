#ifndef SHARDSTEP_RUNTIME_SHARDSTEP_H_
#define SHARDSTEP_RUNTIME_SHARDSTEP_H_

/* The C interface (C99) of libshardstep.so: the whole life of a ShardedOptimizer. What a call means, blocks for and
 * refuses is said once, in sharded_optimizer.h, at the method of the same name; here is what C adds. A training loop:
 *
 *   shardstep_optimizer_create(&job, "group { adamw { weight_decay: 0.1 } }", parameters, count, &optimizer);
 *   shardstep_initialize(optimizer, fill, context);
 *   for each step:
 *     for each of K micro-steps:
 *       forward:  shardstep_weights_ready(optimizer, p) before parameter p is used
 *       backward: shardstep_gradient_writable(optimizer, p), write it, shardstep_gradient_ready(optimizer, p)
 *       shardstep_end_micro_step(optimizer)
 *     shardstep_step(optimizer, &arguments)
 *     shardstep_finish_step(optimizer, &record, &record_bytes)
 *   shardstep_optimizer_destroy(optimizer)
 *
 * Errors: calls return SHARDSTEP_OK or why not; shardstep_last_error() then has the message. No call throws, exits or
 * aborts. A NULL that is not said to be allowed is SHARDSTEP_INVALID_ARGUMENT, naming it.
 *
 * Structs begin with their size: set `size` to sizeof, which tells the library what the caller was compiled with, and
 * all else to 0, which means the default (the _INIT macros do both). A later library takes structs of an earlier
 * header; an earlier one refuses fields that it does not know unless they are 0.
 *
 * Threads: as in C++, calls with one optimizer come from one thread at a time; shardstep_abort from any. Different
 * optimizers are independent. Names and texts are copied; arrays are read or written during the call only, but for
 * bound buffers. */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SHARDSTEP_API __attribute__((visibility("default")))
#else
#define SHARDSTEP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* As absl::StatusCode; comm/status.h says when each is given. */
typedef enum shardstep_code {
  SHARDSTEP_OK = 0,
  SHARDSTEP_INVALID_ARGUMENT = 3,
  SHARDSTEP_DEADLINE_EXCEEDED = 4,
  SHARDSTEP_NOT_FOUND = 5,
  SHARDSTEP_PERMISSION_DENIED = 7,
  SHARDSTEP_RESOURCE_EXHAUSTED = 8,
  SHARDSTEP_FAILED_PRECONDITION = 9,
  SHARDSTEP_ABORTED = 10,
  SHARDSTEP_UNIMPLEMENTED = 12,
  SHARDSTEP_INTERNAL = 13,
  SHARDSTEP_UNAVAILABLE = 14,
  SHARDSTEP_DATA_LOSS = 15
} shardstep_code;

/* Of the last call of this thread that did not return SHARDSTEP_OK, until its next such call: the message; and what it
 * came from, which for SHARDSTEP_ABORTED is the code that another rank failed with. Before any: "" and SHARDSTEP_OK. */
SHARDSTEP_API const char* shardstep_last_error(void);
SHARDSTEP_API shardstep_code shardstep_last_error_cause(void);

/* "0.1.0" */
SHARDSTEP_API const char* shardstep_version(void);

/* ---- The job ---------------------------------------------------------------------------------------------------- */

typedef enum shardstep_meeting {
  SHARDSTEP_MEET_ALONE = 0, /* there is only this rank */
  SHARDSTEP_MEET_TCP = 1,   /* by an id that rank 0 created, or at an address that all know */
  SHARDSTEP_MEET_MPI = 2    /* mpirun started the ranks; initializes MPI unless the caller has */
} shardstep_meeting;

typedef enum shardstep_transport { /* between GPUs; runtime/job.h */
                                   SHARDSTEP_TRANSPORT_NCCL = 0,
                                   SHARDSTEP_TRANSPORT_NCCL_TWO_LEVELS = 1,
                                   SHARDSTEP_TRANSPORT_NCCL_REDUCE_SCATTER = 2,
                                   SHARDSTEP_TRANSPORT_STAGED = 3
} shardstep_transport;

/* How this process is a rank of a job. Fields as of JobOptions in runtime/job.h. */
typedef struct shardstep_job {
  size_t size;
  shardstep_meeting meet;
  const char* id;       /* MEET_TCP: of shardstep_create_job_id, or "host:port" of rank 0 */
  int32_t rank;         /* MEET_TCP */
  int32_t world_size;   /* MEET_TCP */
  const char* device;   /* "cpu", "cuda", "cuda:1"; NULL: "cpu" */
  void* compute_stream; /* cuda: the cudaStream_t that the trainer computes on */
  shardstep_transport gpu_transport;
  const char* host_address; /* where other hosts reach this one; NULL: its name */
  double deadline_seconds;  /* 0: 300 */
} shardstep_job;
#define SHARDSTEP_JOB_INIT \
  { sizeof(shardstep_job), SHARDSTEP_MEET_ALONE, NULL, 0, 1, NULL, NULL, SHARDSTEP_TRANSPORT_NCCL, NULL, 0 }

#define SHARDSTEP_JOB_ID_BYTES 320

/* As ncclGetUniqueId: rank 0 calls it, tells the others, and all pass it as `id`. `id`: SHARDSTEP_JOB_ID_BYTES, a
 * string afterwards. `host_address` may be NULL: this host's name. */
SHARDSTEP_API shardstep_code shardstep_create_job_id(const char* host_address, char* id);

/* ---- Parameters and creation ------------------------------------------------------------------------------------ */

typedef struct shardstep_optimizer shardstep_optimizer;

typedef enum shardstep_dtype {
  SHARDSTEP_BF16 = 0, /* uint16_t: the upper half of an fp32 */
  SHARDSTEP_FP32 = 1
} shardstep_dtype;

typedef struct shardstep_parameter { /* ParameterSpec in optimizer/shard_layout.h */
  size_t size;
  const char* name;
  const int64_t* shape; /* `dimensions` extents; NULL with 0 dimensions: a scalar */
  size_t dimensions;
  shardstep_dtype weight_dtype;
  shardstep_dtype gradient_dtype;
  int32_t group;       /* index into the options' groups */
  int32_t frozen;      /* 0 or 1 */
  const char* tied_to; /* the name of an earlier parameter; NULL: none */
  double norm_weight;  /* taken as it is, so 0 keeps it out of the global norm; SHARDSTEP_PARAMETER_INIT has 1 */
} shardstep_parameter;
#define SHARDSTEP_PARAMETER_INIT \
  { sizeof(shardstep_parameter), NULL, NULL, 0, SHARDSTEP_BF16, SHARDSTEP_BF16, 0, 0, NULL, 1.0 }

typedef struct shardstep_memory { /* bytes; MemoryEstimate in runtime/memory_estimate.h */
  size_t size;
  int64_t weights_shared_bytes;
  int64_t weights_private_bytes;
  int64_t gradient_bytes;
  int64_t local_sum_bytes;
  int64_t master_bytes;
  int64_t state_bytes;
  int64_t accumulator_bytes;
  int64_t transit_bytes;
} shardstep_memory;

/* `options`: the text format of message Optimizer in proto/options.proto; NULL or "": the defaults. */
SHARDSTEP_API shardstep_code shardstep_estimate_memory(const char* options, const shardstep_parameter* parameters,
                                                       size_t count, int32_t world_size, shardstep_memory* memory);
/* Collective. Joins the job, then ShardedOptimizer::Create. `*optimizer` is the caller's, to destroy; NULL on error. */
SHARDSTEP_API shardstep_code shardstep_optimizer_create(const shardstep_job* job, const char* options,
                                                        const shardstep_parameter* parameters, size_t count,
                                                        shardstep_optimizer** optimizer);
/* NULL is allowed. */
SHARDSTEP_API void shardstep_optimizer_destroy(shardstep_optimizer* optimizer);

SHARDSTEP_API int32_t shardstep_rank(const shardstep_optimizer* optimizer);
SHARDSTEP_API int32_t shardstep_world_size(const shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_memory_held(const shardstep_optimizer* optimizer, shardstep_memory* memory);
/* Until the next call with `optimizer`. */
SHARDSTEP_API const char* shardstep_describe_wire(shardstep_optimizer* optimizer);

/* ---- Weights and gradients -------------------------------------------------------------------------------------- */

typedef struct shardstep_array { /* contiguous memory of the device, the optimizer's until it is destroyed */
  size_t size;
  void* data;
  int64_t elements;
  shardstep_dtype dtype;
} shardstep_array;
#define SHARDSTEP_ARRAY_INIT \
  { sizeof(shardstep_array), NULL, 0, SHARDSTEP_BF16 }

/* To read between shardstep_weights_ready and the next shardstep_step. */
SHARDSTEP_API shardstep_code shardstep_weights(const shardstep_optimizer* optimizer, int32_t p, shardstep_array* array);
/* To write between shardstep_gradient_writable and shardstep_gradient_ready. */
SHARDSTEP_API shardstep_code shardstep_gradient(shardstep_optimizer* optimizer, int32_t p, shardstep_array* array);
/* `data` of `bytes` is the caller's and outlives the optimizer, or is unbound by NULL and 0. */
SHARDSTEP_API shardstep_code shardstep_bind_gradient(shardstep_optimizer* optimizer, int32_t p, void* data,
                                                     size_t bytes);
SHARDSTEP_API shardstep_code shardstep_bind_weights(shardstep_optimizer* optimizer, int32_t p, void* data,
                                                    size_t bytes);

/* Fills `values` with elements [begin, begin + elements) of the fp32 master weights of parameter p. */
typedef void (*shardstep_fill)(void* context, int32_t p, int64_t begin, float* values, int64_t elements);
/* Collective. `fill` is called by this thread, before the call returns; `context` may be NULL. */
SHARDSTEP_API shardstep_code shardstep_initialize(shardstep_optimizer* optimizer, shardstep_fill fill, void* context);

/* ---- The step --------------------------------------------------------------------------------------------------- */

SHARDSTEP_API shardstep_code shardstep_weights_ready(shardstep_optimizer* optimizer, int32_t p);
SHARDSTEP_API shardstep_code shardstep_gradient_writable(shardstep_optimizer* optimizer, int32_t p);
SHARDSTEP_API shardstep_code shardstep_gradient_ready(shardstep_optimizer* optimizer, int32_t p);
SHARDSTEP_API shardstep_code shardstep_end_micro_step(shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_set_micro_steps(shardstep_optimizer* optimizer, int64_t micro_steps);

typedef struct shardstep_step_arguments { /* runtime/step_arguments.h */
  size_t size;
  double learning_rate;
  int64_t micro_batches; /* 0: micro-steps times ranks */
  double divisor;        /* 0: micro_batches */
  double max_norm;       /* 0: no clipping */
} shardstep_step_arguments;
#define SHARDSTEP_STEP_ARGUMENTS_INIT \
  { sizeof(shardstep_step_arguments), 0, 0, 0, 0 }

SHARDSTEP_API shardstep_code shardstep_step(shardstep_optimizer* optimizer, const shardstep_step_arguments* arguments);
/* `*record`: a serialized StepRecord of proto/record.proto, `*bytes` of it, until the next call with `optimizer`. Both
 * may be NULL. */
SHARDSTEP_API shardstep_code shardstep_finish_step(shardstep_optimizer* optimizer, const void** record, size_t* bytes);

/* CUDA graphs. */
SHARDSTEP_API shardstep_code shardstep_begin_capture(shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_end_capture(shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_replay(shardstep_optimizer* optimizer,
                                              const shardstep_step_arguments* arguments);

/* ---- Groups ----------------------------------------------------------------------------------------------------- */

/* `group_options`: the text format of message Group in proto/options.proto. */
SHARDSTEP_API shardstep_code shardstep_set_group(shardstep_optimizer* optimizer, int32_t group,
                                                 const char* group_options);
SHARDSTEP_API shardstep_code shardstep_add_group(shardstep_optimizer* optimizer, const char* group_options,
                                                 const char* const* parameters, size_t count, int32_t* group);
SHARDSTEP_API shardstep_code shardstep_set_frozen(shardstep_optimizer* optimizer, const char* const* parameters,
                                                  size_t count, int32_t frozen);

/* ---- The model as a whole, between steps ------------------------------------------------------------------------ */

typedef enum shardstep_state {
  SHARDSTEP_MASTER = 0,
  SHARDSTEP_FIRST_MOMENT = 1,
  SHARDSTEP_SECOND_MOMENT = 2
} shardstep_state;

/* `values`: `elements` of the parameter's weight dtype. */
SHARDSTEP_API shardstep_code shardstep_set_weights(shardstep_optimizer* optimizer, const char* parameter,
                                                   const void* values, int64_t elements);
/* `values`: room for all elements of the parameter. */
SHARDSTEP_API shardstep_code shardstep_read_state(shardstep_optimizer* optimizer, const char* parameter,
                                                  shardstep_state state, float* values, int64_t elements);
SHARDSTEP_API shardstep_code shardstep_set_state(shardstep_optimizer* optimizer, const char* parameter,
                                                 shardstep_state state, const float* values, int64_t elements);

typedef struct shardstep_counters { /* runtime/step_counters.h */
  size_t size;
  int64_t step;
  int64_t applied_steps;
  int64_t skipped_steps;
  int64_t consecutive_skips;
} shardstep_counters;
#define SHARDSTEP_COUNTERS_INIT \
  { sizeof(shardstep_counters), 0, 0, 0, 0 }

SHARDSTEP_API shardstep_code shardstep_read_counters(const shardstep_optimizer* optimizer,
                                                     shardstep_counters* counters);
SHARDSTEP_API shardstep_code shardstep_set_counters(shardstep_optimizer* optimizer, const shardstep_counters* counters);

typedef struct shardstep_digests { /* 32 hexadecimal digits each, and a 0 */
  size_t size;
  char weights[33];
  char master[33];
  char first_moment[33];
  char second_moment[33];
} shardstep_digests;

SHARDSTEP_API shardstep_code shardstep_compute_digests(shardstep_optimizer* optimizer, shardstep_digests* digests);

/* `caller_state` of `bytes` may be NULL with 0. */
SHARDSTEP_API shardstep_code shardstep_save(shardstep_optimizer* optimizer, const char* directory,
                                            const void* caller_state, size_t bytes);
/* What was saved, and warnings, one a line, until the next call with `optimizer`. All three may be NULL. */
SHARDSTEP_API shardstep_code shardstep_load(shardstep_optimizer* optimizer, const char* directory,
                                            const void** caller_state, size_t* bytes, const char** warnings);

/* ---- Others ----------------------------------------------------------------------------------------------------- */

/* Collective over all ranks of all optimizers, which `job` describes: JoinDecisions of runtime/joint_decision.h.
 * `names[i]` is that of optimizers[i]. */
SHARDSTEP_API shardstep_code shardstep_join_decisions(const shardstep_job* job, shardstep_optimizer* const* optimizers,
                                                      const char* const* names, size_t count);
SHARDSTEP_API void shardstep_set_away(shardstep_optimizer* optimizer, double seconds);
/* From any thread. `reason` may be NULL. */
SHARDSTEP_API void shardstep_abort(shardstep_optimizer* optimizer, const char* reason);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SHARDSTEP_RUNTIME_SHARDSTEP_H_ */
