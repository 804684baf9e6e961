"""A model of Hugging Face transformers, made from a configuration, trains through the optimizer."""

import torch
import transformers

import shardstep.torch
from models import place
from ranks import run_ranks

VOCABULARY = 96
STEPS = 30


def train(gradient_checkpointing):
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    rank, world_size = place()
    optimizer = shardstep.torch.ShardedOptimizer(
        model.named_parameters(), lr=5e-3, weight_decay=0.1, max_norm=1.0, micro_steps=2 // world_size,
        overlap_forward=True,
    )
    losses = []
    for step in range(STEPS):
        for k in range(2 // world_size):
            tokens = sequences(step, k * world_size + rank)
            loss = model(input_ids=tokens, labels=tokens).loss
            if k == 2 // world_size - 1:
                loss.backward()
            else:
                with optimizer.accumulate():
                    loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, optimizer.digests()


def sequences(step, number):
    """Counting upwards from somewhere: easily learned."""
    generator = torch.Generator().manual_seed(100 * step + number)
    starts = torch.randint(VOCABULARY, (8, 1), generator=generator)
    return (starts + torch.arange(24)) % VOCABULARY


def test_a_llama_learns_with_the_same_bits_on_one_and_two_ranks():
    (losses, digests), = run_ranks(1, train, False)
    assert losses[-1] < 0.5 * losses[0]
    for _, other in run_ranks(2, train, False):
        assert other == digests


def test_gradient_checkpointing_changes_no_bit():
    (_, digests), = run_ranks(1, train, False)
    (_, checkpointed), = run_ranks(1, train, True)
    assert checkpointed == digests
