/* A trainer in C: a perceptron of 2 inputs, 32 tanh units and 1 logistic output learns which points lie in a ring. It
 * trains until STEPS steps are done, goes on from the last checkpoint in DIRECTORY, and prints the same digests on 1, 2
 * and 4 ranks.
 *
 *   cc -std=c99 train_c.c $(pkg-config --cflags --libs shardstep) -lm -o train_c
 *   ./train_c alone STEPS DIRECTORY
 *   mpirun -n 4 ./train_c mpi STEPS DIRECTORY
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shardstep/runtime/shardstep.h"

enum { HIDDEN = 32, POINTS = 64, MICRO_BATCHES = 4, TEST_POINTS = 2000 };
enum { HIDDEN_LAYER = 0, OUTPUT_LAYER = 1, PARAMETERS = 2, LARGEST = 3 * HIDDEN };

static const int64_t hidden_shape[] = {HIDDEN, 3};  /* two weights and a bias per unit */
static const int64_t output_shape[] = {HIDDEN + 1}; /* the bias is last */

/* All values of the model, by parameter: its weights or its gradient in fp32. */
typedef float model[PARAMETERS][LARGEST];

static void check(shardstep_code code, const char* what) {
  if (code == SHARDSTEP_OK) return;
  fprintf(stderr, "train_c: %s: %s\n", what, shardstep_last_error());
  exit(1); /* mpirun then ends the other ranks */
}

static float from_bf16(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* To the nearest, ties to even. */
static uint16_t to_bf16(float value) {
  uint32_t bits;
  if (isnan(value)) return 0x7fc0;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* In [-1, 1), the same for the same number: data and first weights depend on no rank. */
static float random_value(uint64_t number) {
  number += 0x9e3779b97f4a7c15u;
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
  number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
  return (float)((number ^ (number >> 31)) >> 40) / (1 << 23) - 1;
}

static void fill(void* context, int32_t p, int64_t begin, float* values, int64_t elements) {
  (void)context;
  for (int64_t i = 0; i < elements; ++i) values[i] = 3 * random_value((uint64_t)(p * LARGEST + begin + i));
}

/* Whether the model judges a point rightly. Adds the gradient of its loss, unless `gradient` is NULL. */
static int learn_point(model weights, float (*gradient)[LARGEST], uint64_t point) {
  const float *in = weights[HIDDEN_LAYER], *out = weights[OUTPUT_LAYER];
  const float x = random_value(2 * point), y = random_value(2 * point + 1);
  const float radius = sqrtf(x * x + y * y), label = radius > 0.4f && radius < 0.8f ? 1 : 0;
  float unit[HIDDEN], logit = out[HIDDEN];
  for (int h = 0; h < HIDDEN; ++h) {
    unit[h] = tanhf(in[3 * h] * x + in[3 * h + 1] * y + in[3 * h + 2]);
    logit += out[h] * unit[h];
  }
  if (gradient != NULL) {
    const float error = (1 / (1 + expf(-logit)) - label) / POINTS;
    for (int h = 0; h < HIDDEN; ++h) {
      const float slope = error * out[h] * (1 - unit[h] * unit[h]);
      gradient[HIDDEN_LAYER][3 * h] += slope * x;
      gradient[HIDDEN_LAYER][3 * h + 1] += slope * y;
      gradient[HIDDEN_LAYER][3 * h + 2] += slope;
      gradient[OUTPUT_LAYER][h] += error * unit[h];
    }
    gradient[OUTPUT_LAYER][HIDDEN] += error;
  }
  return (logit > 0) == (label > 0);
}

static void read_weights(shardstep_optimizer* optimizer, model weights) {
  for (int32_t p = 0; p < PARAMETERS; ++p) {
    shardstep_array array = SHARDSTEP_ARRAY_INIT;
    check(shardstep_weights_ready(optimizer, p), "weights_ready"); /* waits for the last step's update of p */
    check(shardstep_weights(optimizer, p, &array), "weights");
    for (int64_t i = 0; i < array.elements; ++i) weights[p][i] = from_bf16(((const uint16_t*)array.data)[i]);
  }
}

static void write_gradient(shardstep_optimizer* optimizer, model gradient) {
  for (int32_t p = PARAMETERS; p-- > 0;) { /* in whatever order backward has them */
    shardstep_array array = SHARDSTEP_ARRAY_INIT;
    check(shardstep_gradient_writable(optimizer, p), "gradient_writable");
    check(shardstep_gradient(optimizer, p, &array), "gradient");
    for (int64_t i = 0; i < array.elements; ++i) ((uint16_t*)array.data)[i] = to_bf16(gradient[p][i]);
    check(shardstep_gradient_ready(optimizer, p), "gradient_ready"); /* its exchange begins */
  }
}

/* The ranks share a step's micro-batches, so that what is computed does not depend on how many they are. */
static void train_step(shardstep_optimizer* optimizer, int64_t step) {
  const int64_t ranks = shardstep_world_size(optimizer), rank = shardstep_rank(optimizer);
  for (int64_t k = 0; k < MICRO_BATCHES / ranks; ++k) {
    const int64_t micro_batch = step * MICRO_BATCHES + k * ranks + rank;
    model weights, gradient = {{0}};
    read_weights(optimizer, weights);
    for (int64_t i = 0; i < POINTS; ++i) learn_point(weights, gradient, (uint64_t)(micro_batch * POINTS + i));
    write_gradient(optimizer, gradient);
    check(shardstep_end_micro_step(optimizer), "end_micro_step");
  }
  shardstep_step_arguments arguments = SHARDSTEP_STEP_ARGUMENTS_INIT;
  arguments.learning_rate = 0.05;
  arguments.max_norm = 1;
  check(shardstep_step(optimizer, &arguments), "step");

  const void* record; /* a message, for whoever has Protobuf */
  size_t record_bytes;
  shardstep_step_summary summary = SHARDSTEP_STEP_SUMMARY_INIT;
  check(shardstep_finish_step(optimizer, &record, &record_bytes), "finish_step");
  check(shardstep_summarize_step(optimizer, &summary), "summarize_step");
  if (rank != 0) return;
  if (!summary.applied) printf("step %ld skipped: %s\n", (long)summary.step, summary.why_skipped);
  if (summary.step % 100 == 0) {
    printf("step %ld: gradient norm %.4f, record of %lu bytes\n", (long)summary.step, summary.gradient_norm,
           (unsigned long)record_bytes);
  }
}

/* Goes on from the newest checkpoint, of whatever number of ranks, or begins. Returns how many steps are done. */
static int64_t start(shardstep_optimizer* optimizer, const char* directory) {
  const void* note;
  size_t bytes;
  const char* warnings;
  const shardstep_code code = shardstep_load(optimizer, directory, &note, &bytes, &warnings);
  if (code == SHARDSTEP_NOT_FOUND) {
    check(shardstep_initialize(optimizer, fill, NULL), "initialize");
  } else {
    check(code, "load");
    if (shardstep_rank(optimizer) == 0) printf("resumed: %.*s\n%s", (int)bytes, (const char*)note, warnings);
  }
  shardstep_counters counters = SHARDSTEP_COUNTERS_INIT;
  check(shardstep_read_counters(optimizer, &counters), "read_counters");
  return counters.step;
}

static void report(shardstep_optimizer* optimizer) {
  model weights;
  int right = 0;
  read_weights(optimizer, weights);
  for (uint64_t i = 1; i <= TEST_POINTS; ++i) right += learn_point(weights, NULL, 0 - i);
  shardstep_digests digests = SHARDSTEP_DIGESTS_INIT;
  check(shardstep_compute_digests(optimizer, &digests), "compute_digests"); /* an error if the ranks' weights differ */
  if (shardstep_rank(optimizer) != 0) return;
  printf("%.1f %% of %d new points are right\n", 100.0 * right / TEST_POINTS, TEST_POINTS);
  printf("digest weights=%s master=%s first_moment=%s second_moment=%s\n", digests.weights, digests.master,
         digests.first_moment, digests.second_moment);
}

int main(int argc, char** argv) {
  if (argc != 4 || (strcmp(argv[1], "alone") != 0 && strcmp(argv[1], "mpi") != 0)) {
    fprintf(stderr, "usage: train_c alone|mpi STEPS DIRECTORY\n");
    return 64;
  }
  const int64_t steps = strtol(argv[2], NULL, 10);
  const char* const directory = argv[3];

  shardstep_job job = SHARDSTEP_JOB_INIT;
  job.meet = strcmp(argv[1], "mpi") == 0 ? SHARDSTEP_MEET_MPI : SHARDSTEP_MEET_ALONE;
  shardstep_parameter parameters[PARAMETERS] = {SHARDSTEP_PARAMETER_INIT, SHARDSTEP_PARAMETER_INIT};
  parameters[HIDDEN_LAYER].name = "hidden";
  parameters[HIDDEN_LAYER].shape = hidden_shape;
  parameters[HIDDEN_LAYER].dimensions = 2;
  parameters[OUTPUT_LAYER].name = "output";
  parameters[OUTPUT_LAYER].shape = output_shape;
  parameters[OUTPUT_LAYER].dimensions = 1;
  shardstep_optimizer* optimizer;
  check(shardstep_optimizer_create(&job, "group { adamw { weight_decay: 0.001 } }", parameters, PARAMETERS, &optimizer),
        "optimizer_create");

  const int32_t ranks = shardstep_world_size(optimizer);
  if (MICRO_BATCHES % ranks != 0) {
    fprintf(stderr, "train_c: %d ranks cannot share %d micro-batches\n", ranks, MICRO_BATCHES);
    return 64;
  }
  check(shardstep_set_micro_steps(optimizer, MICRO_BATCHES / ranks), "set_micro_steps");

  for (int64_t step = start(optimizer, directory); step < steps; ++step) train_step(optimizer, step);
  char note[64]; /* what else a trainer must know to go on */
  sprintf(note, "%ld points seen", (long)(steps * MICRO_BATCHES * POINTS));
  check(shardstep_save(optimizer, directory, note, strlen(note)), "save");
  report(optimizer);
  shardstep_optimizer_destroy(optimizer);
  return 0;
}
