"""Shardstep's optimizer step for PyTorch.

    optimizer = shardstep.torch.ShardedOptimizer(model.named_parameters(), lr=3e-4, max_norm=1.0)
    for inputs, targets in batches:
        loss = loss_of(model(inputs), targets)   # of this rank's part of the batch
        loss.backward()                          # gradients travel while backward runs
        optimizer.step()

The model is not wrapped. Start the ranks with torchrun, mpirun, or anything that initializes torch.distributed.
"""

from ._optimizer import ShardedOptimizer
from ._ranks import find_job

__all__ = ["ShardedOptimizer", "find_job"]
