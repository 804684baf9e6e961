"""Small models, and what they are fed: the same for a micro-batch at any number of ranks."""

import contextlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import shardstep.torch

MICRO_BATCHES = 4


class Perceptron(nn.Module):
    """Two layers with a norm between; odd sizes, so that shards are padded."""

    def __init__(self, width=33, hidden=70):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.second(self.norm(F.gelu(self.first(x))))


def make(module=Perceptron, seed=3, dtype=torch.bfloat16, **arguments):
    torch.manual_seed(seed)
    return module(**arguments).to(dtype)


def batch(step, number, width=33):
    """(inputs, targets) of micro-batch `number` of a step."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    x = torch.randn(6, width, generator=generator)
    return x.bfloat16(), torch.roll(x, 1, dims=1).bfloat16()


def loss_of(model, step, number):
    inputs, targets = batch(step, number)
    return F.mse_loss(model(inputs).float(), targets.float())


def place():
    """(rank, world size), also without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def micro_steps():
    return MICRO_BATCHES // place()[1]


def train_step(model, optimizer, step, loss=loss_of, **arguments):
    """All micro-batches of one step; the mean loss of this rank's."""
    rank, world_size = place()
    total = 0.0
    for k in range(micro_steps()):
        last = k == micro_steps() - 1
        with contextlib.nullcontext() if last else optimizer.accumulate():
            value = loss(model, step, k * world_size + rank)
            value.backward()
        total += float(value.detach())
    optimizer.step(**arguments)
    return total / micro_steps()


def optimizer_of(model, groups=None, **arguments):
    settings = dict(lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1, micro_steps=micro_steps())
    return shardstep.torch.ShardedOptimizer(groups or model.named_parameters(), **{**settings, **arguments})
