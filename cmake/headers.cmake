# What a trainer's headers reach, and so what is installed; tests/include_arrows.py keeps this list complete.
set(SHARDSTEP_HEADERS
  comm/bf16.h
  comm/buffer.h
  comm/communicator.h
  comm/dtype.h
  comm/host_device.h
  comm/inproc/thread_rendezvous.h
  comm/levels.h
  comm/rendezvous.h
  comm/shm/shared_memory_communicator.h
  comm/slice.h
  comm/small_reduction.h
  comm/status.h
  comm/stream.h
  comm/tcp/tcp_rendezvous.h
  optimizer/adamw.h
  optimizer/digest.h
  optimizer/lion.h
  optimizer/sgd.h
  optimizer/shard_layout.h
  optimizer/update_rule.h
  runtime/joint_decision.h
  runtime/memory_estimate.h
  runtime/optimizer_digests.h
  runtime/options.h
  runtime/parameter_groups.h
  runtime/sharded_optimizer.h
  runtime/step_arguments.h
  runtime/step_plan.h
  runtime/step_record.h
  runtime/step_trace.h)
set(SHARDSTEP_MPI_HEADERS comm/mpi/mpi_communicator.h comm/mpi/mpi_rendezvous.h)
# For trainers that read options files or write records.
set(SHARDSTEP_MESSAGES options record)
