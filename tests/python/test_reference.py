"""The job of tests/runtime/reference_digests_test.cc, run from Python: it must end with the C++ reference's bits."""

import pathlib

import numpy
import pytest

import shardstep
from ranks import run_ranks
from training import to_bits

DIGESTS = pathlib.Path(__file__).parent.parent / "runtime" / "testdata" / "reference_digests.txt"
MICRO_BATCHES = 12
STEPS = 5
OPTIONS = "group { adamw { beta2: 0.95 weight_decay: 0.1 } }"
PARAMETERS = [("embedding", (70, 60)), ("bias", (7,)), ("scalar", ()), ("empty", (0, 5)), ("matrix", (33, 65)),
              ("block", (1024,)), ("head", (3, 1000))]


def mix(x):
    """SplitMix64, of an array."""
    x = x + numpy.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def uniform(key):
    return (mix(key) >> numpy.uint64(11)).astype(numpy.float64) * 2.0**-53


def initial(p, begin, size):
    key = numpy.uint64(p << 32) | numpy.arange(begin, begin + size, dtype=numpy.uint64)
    return (uniform(key) - 0.5).astype(numpy.float32)


def gradient(step, micro_batch, p, shape):
    elements = numpy.arange(numpy.prod(shape, dtype=int), dtype=numpy.uint64)
    key = numpy.uint64(((step * 4099 + micro_batch) * 61 + p) * 1000003) + elements
    exponents = (mix(key) % numpy.uint64(12)).astype(numpy.int64) - 8
    return to_bits(numpy.ldexp(uniform(key) - 0.5, exponents)).reshape(shape)


def run(job):
    world_size = job.world_size
    micro_steps = -(-MICRO_BATCHES // world_size)
    parameters = [shardstep.Parameter(name, shape) for name, shape in PARAMETERS]
    optimizer = shardstep.ShardedOptimizer(job, parameters, f"{OPTIONS} micro_steps: {micro_steps}")

    def fill(p, begin, values):
        array = numpy.asarray(values)
        array[:] = initial(p, begin, array.size)

    optimizer.initialize(fill)
    for step in range(STEPS):
        for k in range(micro_steps):
            micro_batch = k * world_size + optimizer.rank
            for p, (_, shape) in enumerate(PARAMETERS):
                if micro_batch < MICRO_BATCHES:
                    optimizer.gradient_writable(p)
                    numpy.asarray(optimizer.gradient(p, as_bits=True))[...] = gradient(step, micro_batch, p, shape)
                    optimizer.gradient_ready(p)
            optimizer.end_micro_step()
        optimizer.step(learning_rate=0.01 / (1.0 + step), micro_batches=MICRO_BATCHES, max_norm=0.5)
        assert optimizer.finish_step().clip_factor < 1
    return optimizer.digests()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_the_bits_are_the_references(world_size):
    expected = dict(line.split() for line in DIGESTS.read_text().splitlines())
    assert run_ranks(world_size, run) == [expected] * world_size
