"""Trains a byte-level GPT on the bytes of a text, data-parallel: Shardstep.

    torchrun --nproc-per-node 2 examples/train_gpt_torch.py --data data/shakespeare.txt
"""

import argparse
import contextlib
import math

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import shardstep.torch


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm and added to the stream x: (sequences, bytes, width)."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        sequences, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(sequences, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(sequences, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Predicts the next byte; the output layer is the embedding."""

    def __init__(self, layers, width, heads, context):
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        self.apply(self._initialize)
        for block in self.blocks:
            for linear in (block.out, block.down):
                nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * layers))
        self.head.weight = self.bytes.weight

    @staticmethod
    def _initialize(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, inputs, targets):
        x = self.bytes(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().view(-1, 256), targets.reshape(-1))


class Corpus:
    """Windows of a text. Which one a micro-batch has depends on its number only, at any number of ranks."""

    def __init__(self, path, context):
        with open(path, "rb") as file:
            text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
        held_out = len(text) // 20
        self.train, self.held_out, self.context = text[:-held_out], text[-held_out:], context

    def windows(self, text, starts):
        windows = torch.stack([text[start : start + self.context + 1] for start in starts.tolist()]).long()
        return windows[:, :-1], windows[:, 1:]

    def micro_batch(self, step, number, sequences):
        generator = torch.Generator().manual_seed(step * 65536 + number)
        return self.windows(self.train, torch.randint(len(self.train) - self.context, (sequences,), generator=generator))

    def evaluation(self, count=64):
        return self.windows(self.held_out, torch.linspace(0, len(self.held_out) - self.context - 1, count).long())


def rate_of(step, options):
    """Linear warm-up, then a cosine to a tenth."""
    warm = min(1.0, (step + 1) / options.warmup_steps)
    return options.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * step / options.steps))


def mean_over_ranks(value):
    total = torch.tensor([float(value), 1.0])
    dist.all_reduce(total)
    return float(total[0] / total[1])


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a text file")
    for name, default in (("steps", 500), ("micro_batches", 4), ("sequences", 8), ("layers", 4), ("width", 192),
                          ("heads", 3), ("context", 64), ("warmup_steps", 50), ("report_steps", 50), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--max_norm", type=float, default=1.0)
    return parser.parse_args()


def main():
    options = parse_options()
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    micro_steps = options.micro_batches // world_size
    corpus = Corpus(options.data, options.context)
    torch.manual_seed(options.seed)
    model = GPT(options.layers, options.width, options.heads, options.context).to(torch.bfloat16)
    optimizer = shardstep.torch.ShardedOptimizer(
        model.named_parameters(), options.learning_rate, betas=(0.9, 0.98), weight_decay=0.1,
        max_norm=options.max_norm, micro_steps=micro_steps, overlap_forward=True)
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = rate_of(step, options)
        total = 0.0
        for k in range(micro_steps):
            with contextlib.nullcontext() if k == micro_steps - 1 else optimizer.accumulate():
                loss = model(*corpus.micro_batch(step, k * world_size + rank, options.sequences))
                loss.backward()
            total += loss.item()
        optimizer.step()
        if (step + 1) % options.report_steps == 0 or step + 1 == options.steps:
            with torch.no_grad():
                held_out = model(*corpus.evaluation()).item()
            train = mean_over_ranks(total / micro_steps)
            if rank == 0:
                print(f"step {step + 1} train {train:.4f} held_out {held_out:.4f} nats per byte", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
