"""Shardstep: the sharded optimizer step of mixed-precision training.

shardstep.torch has the optimizer for PyTorch. Here is the C++ library itself, for trainers without torch:

    optimizer = shardstep.ShardedOptimizer(shardstep.Job(), [shardstep.Parameter("w", (512, 512))])
    optimizer.initialize(fill)                      # fill(p, begin, values) writes fp32 master weights
    for each step:
        optimizer.gradient_writable(0)              # per parameter, in any order
        numpy.asarray(optimizer.gradient(0, as_bits=True))[...] = ...
        optimizer.gradient_ready(0)
        optimizer.end_micro_step()
        optimizer.step(learning_rate=1e-3)
        record = optimizer.finish_step()
        optimizer.weights_ready(0)

Ranks are processes: Job says how they meet. Arrays are in place, for torch.from_dlpack and numpy.asarray (numpy's own
from_dlpack only reads, before numpy 2.1); numpy knows no bf16, so it gets its bits.
"""

from __future__ import annotations

import atexit as _atexit
import os as _os
import weakref as _weakref

from ._errors import (
    Aborted,
    DataLoss,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from . import _native
from ._native import Job, NonFinitePlace, Parameter, StepRecord, create_job_id, join_decisions
from ._native import version as __version__

__all__ = [
    "Aborted",
    "DataLoss",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Job",
    "NonFinitePlace",
    "NotFound",
    "Parameter",
    "PermissionDenied",
    "ResourceExhausted",
    "ShardedOptimizer",
    "StepRecord",
    "Unavailable",
    "Unimplemented",
    "create_job_id",
    "join_decisions",
]

_open: _weakref.WeakSet[ShardedOptimizer] = _weakref.WeakSet()


class ShardedOptimizer(_native.ShardedOptimizer):
    __doc__ = _native.ShardedOptimizer.__doc__

    def __init__(self, job: Job, parameters: list[Parameter], options: str = "") -> None:
        super().__init__(job, parameters, options)
        self._process = _os.getpid()
        _open.add(self)


@_atexit.register
def _leave_jobs() -> None:
    # A process that ends inside a job has died, to the others and to mpirun. A forked child has no part in it.
    for optimizer in list(_open):
        if optimizer._process == _os.getpid():
            optimizer.close()
