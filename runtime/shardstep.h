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
 * examples/train_c.c is a whole trainer.
 *
 * Errors: calls return SHARDSTEP_OK or why not; shardstep_last_error() then has the message. No call throws, exits or
 * aborts the process; one that an exception ended (no memory, or an exception of the caller's own `fill`) leaves an
 * optimizer that can only be destroyed, and ends its job. A NULL that is not said to be allowed is
 * SHARDSTEP_INVALID_ARGUMENT, naming the argument. What a pointer argument points to on an error is undefined unless
 * said otherwise. Arguments that C adds, such as texts and sizes, are looked at before a collective call meets the
 * other ranks: a rank that is refused for them is alone.
 *
 * Structs begin with their size: set `size` to sizeof, which tells the library what the caller was compiled with, and
 * all else to 0, which means the default (the _INIT macros do both). A later library takes structs of an earlier
 * header. An earlier one refuses fields that it does not know unless they are 0; those of a struct that it fills come
 * back 0. Enumerations in structs and arguments are int32_t, so that no compiler's option changes their size.
 *
 * Threads: as in C++, calls with one optimizer come from one thread at a time; shardstep_abort from any. Different
 * optimizers are independent. Names and texts are copied; arrays are read or written during the call only, but for
 * bound buffers. "Until the next call" means of that function, with that optimizer. */

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

/* NOLINTBEGIN(modernize-*): this is C. */

/* As absl::StatusCode; comm/status.h says when each is given. */
typedef enum shardstep_code {
  SHARDSTEP_OK = 0,
  SHARDSTEP_CANCELLED = 1, /* as a cause: of shardstep_abort */
  SHARDSTEP_INVALID_ARGUMENT = 3,
  SHARDSTEP_DEADLINE_EXCEEDED = 4,
  SHARDSTEP_NOT_FOUND = 5,
  SHARDSTEP_PERMISSION_DENIED = 7,
  SHARDSTEP_RESOURCE_EXHAUSTED = 8, /* also: out of memory */
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

/* Of the library, "0.1.0". */
SHARDSTEP_API const char* shardstep_version(void);

/* ---- The job ---------------------------------------------------------------------------------------------------- */

typedef enum shardstep_meeting {
  SHARDSTEP_MEET_ALONE = 0, /* there is only this rank */
  SHARDSTEP_MEET_TCP = 1,   /* by an id that rank 0 created, or at an address that all know */
  SHARDSTEP_MEET_MPI = 2    /* mpirun started the ranks */
} shardstep_meeting;

/* What gradients and weights travel by between GPUs; GpuTransport in runtime/job.h. */
typedef enum shardstep_transport {
  SHARDSTEP_TRANSPORT_NCCL = 0,
  SHARDSTEP_TRANSPORT_NCCL_TWO_LEVELS = 1,
  SHARDSTEP_TRANSPORT_NCCL_REDUCE_SCATTER = 2,
  SHARDSTEP_TRANSPORT_STAGED = 3
} shardstep_transport;

/* How this process is a rank of a job; JobOptions in runtime/job.h. MEET_MPI initializes MPI unless the caller has;
 * then MPI is finalized when the last optimizer that met by it is destroyed, and no other can be created after that. */
typedef struct shardstep_job {
  size_t size;
  int32_t meet;             /* shardstep_meeting */
  int32_t gpu_transport;    /* shardstep_transport */
  const char* id;           /* MEET_TCP: of shardstep_create_job_id, or "host:port" of rank 0 */
  int32_t rank;             /* MEET_TCP */
  int32_t world_size;       /* MEET_TCP */
  const char* device;       /* "cpu", "cuda", "cuda:1"; NULL: "cpu" */
  void* compute_stream;     /* cuda: the cudaStream_t that the trainer computes on, not the legacy default stream */
  const char* host_address; /* where other hosts reach this one; NULL: its name */
  double deadline_seconds;  /* for ranks to meet; 0: 300 */
} shardstep_job;
#define SHARDSTEP_JOB_INIT \
  { sizeof(shardstep_job), SHARDSTEP_MEET_ALONE, SHARDSTEP_TRANSPORT_NCCL, NULL, 0, 0, NULL, NULL, NULL, 0 }

#define SHARDSTEP_JOB_ID_BYTES 320

/* As ncclGetUniqueId: rank 0 calls it, tells the others, and all pass it as `id`. It is secret: it lets in. `id`:
 * SHARDSTEP_JOB_ID_BYTES, a string afterwards. `host_address` may be NULL: this host's name. */
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
  int32_t weight_dtype;   /* shardstep_dtype */
  int32_t gradient_dtype; /* shardstep_dtype */
  int32_t group;          /* index into the options' groups */
  int32_t frozen;         /* 0 or 1 */
  const char* tied_to;    /* the name of an earlier parameter; NULL: none */
  double norm_weight;     /* taken as it is, so 0 keeps it out of the global norm; SHARDSTEP_PARAMETER_INIT has 1 */
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
#define SHARDSTEP_MEMORY_INIT \
  { sizeof(shardstep_memory), 0, 0, 0, 0, 0, 0, 0, 0 }

/* `options`: the text format of message Optimizer in proto/options.proto; NULL or "": the defaults. `parameters`:
 * `count` structs, one after the other, all of one size; their index is what other calls name p. */
SHARDSTEP_API shardstep_code shardstep_estimate_memory(const char* options, const shardstep_parameter* parameters,
                                                       size_t count, int32_t world_size, shardstep_memory* memory);
/* Collective. Joins the job, then ShardedOptimizer::Create. `*optimizer` is the caller's, to destroy; NULL on error. */
SHARDSTEP_API shardstep_code shardstep_optimizer_create(const shardstep_job* job, const char* options,
                                                        const shardstep_parameter* parameters, size_t count,
                                                        shardstep_optimizer** optimizer);
/* Not collective. NULL is allowed. */
SHARDSTEP_API void shardstep_optimizer_destroy(shardstep_optimizer* optimizer);

/* -1 of NULL. */
SHARDSTEP_API int32_t shardstep_rank(const shardstep_optimizer* optimizer);
SHARDSTEP_API int32_t shardstep_world_size(const shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_memory_held(const shardstep_optimizer* optimizer, shardstep_memory* memory);
/* `*text` until the next call. */
SHARDSTEP_API shardstep_code shardstep_describe_wire(shardstep_optimizer* optimizer, const char** text);

/* ---- Weights and gradients -------------------------------------------------------------------------------------- */

typedef struct shardstep_array { /* contiguous memory of the device, the optimizer's until it is destroyed */
  size_t size;
  void* data;
  int64_t elements;
  int32_t dtype; /* shardstep_dtype */
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

typedef struct shardstep_step_arguments { /* StepArguments in runtime/step_arguments.h */
  size_t size;
  double learning_rate;
  int64_t micro_batches; /* 0: micro-steps times ranks */
  double divisor;        /* 0: micro_batches */
  double max_norm;       /* 0: no clipping */
} shardstep_step_arguments;
#define SHARDSTEP_STEP_ARGUMENTS_INIT \
  { sizeof(shardstep_step_arguments), 0, 0, 0, 0 }

SHARDSTEP_API shardstep_code shardstep_step(shardstep_optimizer* optimizer, const shardstep_step_arguments* arguments);
/* `*record`: a serialized StepRecord of proto/record.proto, `*bytes` of it, until the next call. Both may be NULL. */
SHARDSTEP_API shardstep_code shardstep_finish_step(shardstep_optimizer* optimizer, const void** record, size_t* bytes);

/* What a trainer looks at in every step, for those who do not parse messages; StepRecord in runtime/step_record.h. */
typedef struct shardstep_step_summary {
  size_t size;
  int64_t step;
  int64_t applied_steps;
  int32_t applied;           /* 0: skipped, 1 */
  int32_t has_gradient_norm; /* 0: not computed, or not finite; 1 */
  double gradient_norm;
  double clip_factor;
  int64_t step_ns;
  int64_t exposed_ns;
  const char* why_skipped; /* which inf or NaN it was, in words, until the next finish_step; NULL: applied */
} shardstep_step_summary;
#define SHARDSTEP_STEP_SUMMARY_INIT \
  { sizeof(shardstep_step_summary), 0, 0, 0, 0, 0, 0, 0, 0, NULL }

/* Of the last shardstep_finish_step that returned SHARDSTEP_OK; SHARDSTEP_FAILED_PRECONDITION before any. */
SHARDSTEP_API shardstep_code shardstep_summarize_step(const shardstep_optimizer* optimizer,
                                                      shardstep_step_summary* summary);

/* CUDA graphs. */
SHARDSTEP_API shardstep_code shardstep_begin_capture(shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_end_capture(shardstep_optimizer* optimizer);
SHARDSTEP_API shardstep_code shardstep_replay(shardstep_optimizer* optimizer,
                                              const shardstep_step_arguments* arguments);

/* ---- Groups ----------------------------------------------------------------------------------------------------- */

/* `group_options`: the text format of message Group in proto/options.proto; NULL or "": the defaults. Not collective,
 * and until shardstep_step also inside a step; ranks that differ when they take the step learn so. */
SHARDSTEP_API shardstep_code shardstep_set_group(shardstep_optimizer* optimizer, int32_t group,
                                                 const char* group_options);
/* `parameters`: `count` names. `*group`: the new one's index. */
SHARDSTEP_API shardstep_code shardstep_add_group(shardstep_optimizer* optimizer, const char* group_options,
                                                 const char* const* parameters, size_t count, int32_t* group);
/* `frozen`: 0 or 1. */
SHARDSTEP_API shardstep_code shardstep_set_frozen(shardstep_optimizer* optimizer, const char* const* parameters,
                                                  size_t count, int32_t frozen);

/* ---- The model as a whole, between steps ------------------------------------------------------------------------ */

/* What there is of each parameter, in fp32; StateKind in runtime/state_kind.h. */
typedef enum shardstep_state {
  SHARDSTEP_MASTER = 0,
  SHARDSTEP_FIRST_MOMENT = 1,
  SHARDSTEP_SECOND_MOMENT = 2
} shardstep_state;

/* `values`: `elements` of the parameter's weight dtype, the whole of it. */
SHARDSTEP_API shardstep_code shardstep_set_weights(shardstep_optimizer* optimizer, const char* parameter,
                                                   const void* values, int64_t elements);
/* `state`: a shardstep_state. `values` has room for `room` elements, at least those of the parameter. `*elements`: how
 * many there are: all of them, or 0 where there is no such state. */
SHARDSTEP_API shardstep_code shardstep_read_state(shardstep_optimizer* optimizer, const char* parameter, int32_t state,
                                                  float* values, int64_t room, int64_t* elements);
/* `values` may be NULL with 0 elements. */
SHARDSTEP_API shardstep_code shardstep_set_state(shardstep_optimizer* optimizer, const char* parameter, int32_t state,
                                                 const float* values, int64_t elements);

typedef struct shardstep_counters { /* StepCounters in runtime/step_counters.h */
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
/* `*begin_applied_step`: the applied steps when the state of parameter p began. */
SHARDSTEP_API shardstep_code shardstep_read_begin_applied_step(const shardstep_optimizer* optimizer, int32_t p,
                                                               int64_t* begin_applied_step);
/* `begin_applied_steps`: `count` of them, one per parameter; NULL with 0: all 0. */
SHARDSTEP_API shardstep_code shardstep_set_counters(shardstep_optimizer* optimizer, const shardstep_counters* counters,
                                                    const int64_t* begin_applied_steps, size_t count);

typedef struct shardstep_digests { /* strings of 32 hexadecimal digits */
  size_t size;
  char weights[33];
  char master[33];
  char first_moment[33];
  char second_moment[33];
} shardstep_digests;
#define SHARDSTEP_DIGESTS_INIT \
  { sizeof(shardstep_digests), "", "", "", "" }

/* Digests. */
SHARDSTEP_API shardstep_code shardstep_compute_digests(shardstep_optimizer* optimizer, shardstep_digests* digests);

/* For what all ranks must succeed in or none: SHARDSTEP_OK when every rank passed NULL or "" as `error`, otherwise
 * SHARDSTEP_INVALID_ARGUMENT with the error of the lowest rank that gave one, which it names. `what`: alike on all. */
SHARDSTEP_API shardstep_code shardstep_agree(shardstep_optimizer* optimizer, const char* what, const char* error);

/* `caller_state` of `bytes` may be NULL with 0. SHARDSTEP_FAILED_PRECONDITION also when ranks have other settings of a
 * group. */
SHARDSTEP_API shardstep_code shardstep_save(shardstep_optimizer* optimizer, const char* directory,
                                            const void* caller_state, size_t bytes);
/* `*caller_state` of `*bytes`: what was saved; `*warnings`: one a line, also after an error. All until the next call,
 * and each may be NULL. */
SHARDSTEP_API shardstep_code shardstep_load(shardstep_optimizer* optimizer, const char* directory,
                                            const void** caller_state, size_t* bytes, const char** warnings);

/* ---- Others ----------------------------------------------------------------------------------------------------- */

/* Collective over all ranks of all optimizers, which `job` describes: JoinDecisions of runtime/joint_decision.h.
 * `names[i]` is that of optimizers[i]. On CPUs. */
SHARDSTEP_API shardstep_code shardstep_join_decisions(const shardstep_job* job, shardstep_optimizer* const* optimizers,
                                                      const char* const* names, size_t count);
/* `seconds`: finite, at least 0. */
SHARDSTEP_API shardstep_code shardstep_set_away(shardstep_optimizer* optimizer, double seconds);
/* From any thread, while the optimizer lives. `reason` may be NULL. */
SHARDSTEP_API shardstep_code shardstep_abort(shardstep_optimizer* optimizer, const char* reason);

/* NOLINTEND(modernize-*) */

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SHARDSTEP_RUNTIME_SHARDSTEP_H_ */
