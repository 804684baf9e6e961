"""The same training steps unsharded, in one process: what all forms' weights are judged by."""

import torch
from torch import nn

from gpt2 import GradientSource, blocks_of, first_weights

# How much of an update may be lost: by fp32 sums in another order, and by sums of gradients that are bf16.
_LOST_IN_FP32 = 1e-5
_LOST_IN_BF16 = 2.0**-6


def reference_weights(settings, steps):
    """bf16, all parameters one after the other. `settings.rank` does not matter."""
    shapes = [shape for block in blocks_of(settings.size) for shape in block]
    sources = [GradientSource(rank) for rank in range(settings.ranks)]
    masters = [first_weights(shape).float() for shape in shapes]
    optimizer = torch.optim.AdamW(masters, **settings.adamw())
    for step in range(steps):
        for shape, master in zip(shapes, masters):
            master.grad = torch.zeros_like(master)
            for source in sources:
                source.step = step
                master.grad.add_(source.write(shape))
            master.grad.div_(settings.ranks)
        if settings.max_norm is not None:
            nn.utils.clip_grad_norm_(masters, settings.max_norm)
        optimizer.step()
    return torch.cat([master.bfloat16().view(-1) for master in masters])


def compare(weights, reference, settings, steps, sums_in_bf16):
    """(share of weights that are not the reference's bits, share that is further off than rounding explains)."""
    weights, reference = weights.float(), reference.float()
    lost = _LOST_IN_BF16 if sums_in_bf16 else _LOST_IN_FP32
    largest = torch.maximum(weights.abs(), reference.abs())
    # One unit in the last place of bf16, and what `steps` updates of about the learning rate may have lost.
    tolerance = 2.0**-7 * largest + lost * settings.learning_rate * steps
    wrong = ~((weights - reference).abs() <= tolerance)
    return float((weights != reference).double().mean()), float(wrong.double().mean())
