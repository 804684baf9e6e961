#ifndef SHARDSTEP_COMM_HOST_DEVICE_H_
#define SHARDSTEP_COMM_HOST_DEVICE_H_

/// Before an inline function that a GPU computes too: one text, compiled for both.
#ifdef __CUDACC__
#define SHARDSTEP_HOST_DEVICE __host__ __device__
#else
#define SHARDSTEP_HOST_DEVICE
#endif

/// Before a loop that a GPU unrolls completely, so that what it indexes can be registers; and before one that is not
/// worth them.
#ifdef __CUDA_ARCH__
#define SHARDSTEP_UNROLL _Pragma("unroll")
#define SHARDSTEP_NO_UNROLL _Pragma("unroll 1")
#else
#define SHARDSTEP_UNROLL
#define SHARDSTEP_NO_UNROLL
#endif

#endif  // SHARDSTEP_COMM_HOST_DEVICE_H_
