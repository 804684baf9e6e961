#ifndef SHARDSTEP_COMM_HOST_DEVICE_H_
#define SHARDSTEP_COMM_HOST_DEVICE_H_

/// Before an inline function that a GPU computes too: one text, compiled for both.
#ifdef __CUDACC__
#define SHARDSTEP_HOST_DEVICE __host__ __device__
#else
#define SHARDSTEP_HOST_DEVICE
#endif

#endif  // SHARDSTEP_COMM_HOST_DEVICE_H_
