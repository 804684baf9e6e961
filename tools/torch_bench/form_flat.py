"""Written by hand on gloo: flat buffers, AdamW on this rank's fp32 shard, bf16 weights gathered."""

import torch
import torch.distributed as dist

from gpt2 import Model, run_backward


class _Flat:
    """Weights and gradients in one bf16 buffer each, of equal shards; gradients are copied there as they come."""

    def __init__(self, settings):
        self._settings = settings
        self._model = Model(settings.size, settings.rank)
        self._parameters = list(self._model.parameters())
        count = sum(parameter.numel() for parameter in self._parameters)
        self._shard_elements = -(-count // settings.ranks)
        self._weights = torch.zeros(self._shard_elements * settings.ranks, dtype=torch.bfloat16)
        self._gradients = torch.zeros_like(self._weights)
        begin = 0
        for parameter in self._parameters:
            end = begin + parameter.numel()
            self._take_over(parameter, slice(begin, end))
            begin = end
        self._own = self._weights[settings.rank * self._shard_elements :][: self._shard_elements]
        self._master = self._own.float()
        self._master.grad = torch.zeros_like(self._master)
        self._optimizer = torch.optim.AdamW([self._master], **settings.adamw())

    def _take_over(self, parameter, place):
        weights = self._weights[place].view(parameter.shape)
        weights.copy_(parameter.detach())
        parameter.data = weights
        gradient = self._gradients[place].view(parameter.shape)

        def collect(parameter):
            gradient.copy_(parameter.grad)
            parameter.grad = None

        parameter.register_post_accumulate_grad_hook(collect)

    def step(self, source_step):
        self._model.source.step = source_step
        run_backward(self._model)
        self._sum_gradients(self._master.grad)
        self._master.grad.div_(self._settings.ranks)
        if self._settings.max_norm is not None:
            self._clip()
        self._optimizer.step()
        self._own.copy_(self._master)
        self._gather_weights()

    def _clip(self):
        square = torch.linalg.vector_norm(self._master.grad).square()
        dist.all_reduce(square)
        self._master.grad.mul_(torch.clamp(self._settings.max_norm / (square.sqrt() + 1e-6), max=1.0))

    def weights(self):
        return [parameter.detach() for parameter in self._parameters]


class FlatReduceScatter(_Flat):
    """By collectives: gradients become fp32 and reduce_scatter_tensor adds them; gloo would add bf16 ones in bf16."""

    def __init__(self, settings):
        super().__init__(settings)
        self._wide_gradients = torch.zeros(self._gradients.numel())

    def _sum_gradients(self, out):
        self._wide_gradients.copy_(self._gradients)
        dist.reduce_scatter_tensor(out, self._wide_gradients)

    def _gather_weights(self):
        dist.all_gather_into_tensor(self._weights, self._own)


class FlatPointToPoint(_Flat):
    """By messages: each rank gets the others' bf16 gradients of its shard and adds them in fp32; weights come as
    messages too. gloo's all_to_all_single and all_gather_into_tensor take twice as long."""

    def __init__(self, settings):
        super().__init__(settings)
        rank, shards = settings.rank, settings.ranks
        self._peers = [peer for peer in range(shards) if peer != rank]
        self._weight_shards = self._weights.view(shards, -1)
        self._gradient_shards = self._gradients.view(shards, -1)
        self._slices = [torch.zeros_like(self._own) for _ in range(shards)]
        self._slices[rank] = self._gradient_shards[rank]

    def _sum_gradients(self, out):
        self._exchange(self._gradient_shards, self._slices)
        out.copy_(self._slices[0])
        for other in self._slices[1:]:
            out.add_(other)

    def _gather_weights(self):
        self._exchange([self._own] * self._settings.ranks, self._weight_shards)

    def _exchange(self, sent, received):
        operations = [dist.P2POp(dist.isend, sent[peer], peer) for peer in self._peers]
        operations += [dist.P2POp(dist.irecv, received[peer], peer) for peer in self._peers]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
