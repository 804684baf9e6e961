# What a trainer's headers reach, and so what is installed; tests/include_arrows.py keeps this list complete.
set(SHARDSTEP_HEADERS
  comm/bf16.h
  comm/buffer.h
  comm/communicator.h
  comm/inproc/thread_rendezvous.h
  comm/rendezvous.h
  comm/shm/shared_memory_communicator.h
  comm/slice.h
  comm/status.h
  comm/stream.h
  optimizer/adamw.h
  optimizer/digest.h
  optimizer/exact_sum.h
  optimizer/shard_kernels.h
  optimizer/shard_layout.h
  optimizer/shard_state.h
  runtime/decision.h
  runtime/model_access.h
  runtime/options.h
  runtime/sharded_optimizer.h
  runtime/step_record.h)
set(SHARDSTEP_MPI_HEADERS comm/mpi/mpi_rendezvous.h)
# For trainers that read options files or write records.
set(SHARDSTEP_MESSAGES options record)
