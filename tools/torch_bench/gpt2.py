"""GPT-2's parameters in a model whose forward and backward cost nothing but writing gradients."""

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import nn

class Size(NamedTuple):
    layers: int
    width: int
    vocabulary: int
    context: int


# Radford et al. 2019, table 2, and one that a test runs in no time.
SIZES = {
    "gpt2-124m": Size(12, 768, 50257, 1024),
    "gpt2-355m": Size(24, 1024, 50257, 1024),
    "tiny": Size(2, 48, 301, 32),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """One parameter; `number` counts from 0 over the model."""

    number: int
    name: str
    sizes: tuple


def blocks_of(size):
    """The model's parameters, block by block: embeddings, transformer blocks, last norm."""
    layers, width, vocabulary, context = size
    blocks = [[("wte_weight", (vocabulary, width)), ("wpe_weight", (context, width))]]
    blocks += [_transformer_block(width) for _ in range(layers)]
    blocks.append(_with_bias("ln_f", (width,)))
    number = 0
    numbered = []
    for block in blocks:
        numbered.append([Shape(number + i, *parameter) for i, parameter in enumerate(block)])
        number += len(block)
    return numbered


def _transformer_block(width):
    return [
        *_with_bias("ln_1", (width,)),
        *_with_bias("attn_c_attn", (width, 3 * width)),
        *_with_bias("attn_c_proj", (width, width)),
        *_with_bias("ln_2", (width,)),
        *_with_bias("mlp_c_fc", (width, 4 * width)),
        *_with_bias("mlp_c_proj", (4 * width, width)),
    ]


def _with_bias(name, sizes):
    return [(f"{name}_weight", sizes), (f"{name}_bias", sizes[-1:])]


def count_parameters(size):
    """(parameters, elements of all of them)."""
    shapes = [shape for block in blocks_of(size) for shape in block]
    return len(shapes), sum(math.prod(shape.sizes) for shape in shapes)


def first_weights(shape):
    """bf16, the same on every rank."""
    generator = torch.Generator().manual_seed(shape.number)
    return torch.empty(shape.sizes, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)


class GradientSource:
    """Writes bf16 gradients that differ by step, rank, parameter and element."""

    # A prime: rows of no parameter repeat. Small enough to be read from a cache, so that only writing costs.
    _LENGTH = 65521

    def __init__(self, rank):
        generator = torch.Generator().manual_seed(1000 + rank)
        self._values = torch.rand(2 * self._LENGTH, generator=generator).sub_(0.5).mul_(2e-3).bfloat16()
        self.step = 0

    def write(self, shape):
        """A new tensor: memory that backward has just allocated and written."""
        gradient = torch.empty(shape.sizes, dtype=torch.bfloat16)
        begin = (7919 * self.step + 104729 * shape.number) % self._LENGTH
        values = self._values[begin : begin + self._LENGTH]
        flat = gradient.view(-1)
        tail = flat.numel() % self._LENGTH
        flat[: flat.numel() - tail].view(-1, self._LENGTH).copy_(values)
        flat[flat.numel() - tail :].copy_(values[:tail])
        return gradient


class _WriteGradients(torch.autograd.Function):
    """Passes its input on; backward writes the gradients of a block's parameters."""

    @staticmethod
    def forward(ctx, x, block, *_parameters):
        ctx.block = block
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        block = ctx.block
        return gradient, None, *[block.source.write(shape) for shape in block.shapes]


class Block(nn.Module):
    def __init__(self, shapes, source, dtype):
        super().__init__()
        self.shapes, self.source = shapes, source
        for shape in shapes:
            self.register_parameter(shape.name, nn.Parameter(first_weights(shape).to(dtype)))

    def forward(self, x):
        return _WriteGradients.apply(x, self, *self.parameters(recurse=False))


class Model(nn.Module):
    """A chain of blocks. `source.step` chooses the next backward's gradients."""

    def __init__(self, size, rank, dtype=torch.bfloat16):
        super().__init__()
        self.source = GradientSource(rank)
        self.blocks = nn.ModuleList(Block(shapes, self.source, dtype) for shapes in blocks_of(size))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def run_backward(module):
    """Forward and backward of a Model, or of what wraps one."""
    module(torch.ones(1, dtype=torch.bfloat16, requires_grad=True)).backward()
