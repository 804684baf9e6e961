"""DistributedDataParallel, and AdamW on fp32 copies that every rank keeps of all weights."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gpt2 import Model, run_backward


class Ddp:
    """Gradients are views of DDP's buckets; the fp32 ones that AdamW reads are allocated once."""

    def __init__(self, settings):
        self._model = Model(settings.size, settings.rank)
        self._parameters = list(self._model.parameters())
        self._ddp = DistributedDataParallel(self._model, gradient_as_bucket_view=True)
        self._masters = [parameter.detach().float() for parameter in self._parameters]
        for master in self._masters:
            master.grad = torch.zeros_like(master)
        self._optimizer = torch.optim.AdamW(self._masters, **settings.adamw())
        self._max_norm = settings.max_norm

    @torch.no_grad()
    def _update(self):
        gradients = [master.grad for master in self._masters]
        torch._foreach_copy_(gradients, [parameter.grad for parameter in self._parameters])
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_(self._masters, self._max_norm, foreach=True)
        self._optimizer.step()
        torch._foreach_copy_(self._parameters, self._masters)

    def step(self, source_step):
        self._model.source.step = source_step
        run_backward(self._ddp)
        self._update()
        self._model.zero_grad()

    def weights(self):
        return [parameter.detach() for parameter in self._parameters]
