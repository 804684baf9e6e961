"""FSDP2: fp32 parameters, sharded; bf16 in forward and backward; gradients reduced in fp32; AdamW on the shards."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from gpt2 import Model, run_backward


class Fsdp2:
    """reshard_after_forward: bf16 weights are freed after a block's forward and gathered again in its backward."""

    def __init__(self, settings, reshard_after_forward):
        self._model = Model(settings.size, settings.rank, torch.float32)
        arguments = dict(
            mesh=init_device_mesh("cpu", (settings.ranks,)),
            mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
            reshard_after_forward=reshard_after_forward,
        )
        for block in self._model.blocks:
            fully_shard(block, **arguments)
        fully_shard(self._model, **arguments)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), **settings.adamw())
        self._max_norm = settings.max_norm

    def step(self, source_step):
        self._model.source.step = source_step
        run_backward(self._model)
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._max_norm, foreach=True)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def weights(self):
        return [parameter.detach().full_tensor().bfloat16() for parameter in self._model.parameters()]
