/* Usage: program OBJECT
 * Loads libshardstep.so twice, as a plugin's host does, and prints why there is no optimizer on a GPU. */
#include <dlfcn.h>
#include <stdio.h>

#include "shardstep.h"

typedef shardstep_code (*create_function)(const shardstep_job*, const char*, const shardstep_parameter*, size_t,
                                          shardstep_optimizer**);

static shardstep_code create(const char* path, const char* device) {
  shardstep_job job = SHARDSTEP_JOB_INIT;
  shardstep_optimizer* optimizer = NULL;
  shardstep_code code = SHARDSTEP_INTERNAL;
  void* const object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (object == NULL) {
    printf("%s\n", dlerror());
    return code;
  }
  job.device = device;
  code = ((create_function)dlsym(object, "shardstep_optimizer_create"))(&job, "", NULL, 0, &optimizer);
  if (code != SHARDSTEP_OK) printf("%s\n", ((const char* (*)(void))dlsym(object, "shardstep_last_error"))());
  ((void (*)(shardstep_optimizer*))dlsym(object, "shardstep_optimizer_destroy"))(optimizer);
  dlclose(object);
  return code;
}

int main(int argc, char** argv) {
  if (argc != 2) return 64;
  if (create(argv[1], "cpu") != SHARDSTEP_OK) return 1;
  return create(argv[1], "cuda") == SHARDSTEP_OK;
}
