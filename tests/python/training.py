"""A small training run whose gradients are a function of (step, micro-batch, parameter, element)."""

import numpy

import shardstep

MICRO_BATCHES = 12
PARAMETERS = [("matrix", (37, 61), "bf16"), ("bias", (61,), "bf16"), ("scale", (5, 3), "fp32"), ("empty", (0, 4), "bf16")]
OPTIONS = "group { adamw { beta2: 0.95 weight_decay: 0.1 } } bucket_bytes: 4096"


def to_bits(values):
    """fp32 rounded to bf16, to nearest even, as uint16."""
    bits = values.astype(numpy.float32).view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def initial(p, begin, size):
    return numpy.sin(numpy.arange(begin, begin + size, dtype=numpy.float32) * (p + 1)).astype(numpy.float32)


def gradient(step, micro_batch, p, shape):
    generator = numpy.random.default_rng([step, micro_batch, p])
    return generator.integers(-64, 64, size=shape).astype(numpy.float32) / 64


def make(job, world_size=1, options=OPTIONS):
    micro_steps = MICRO_BATCHES // world_size
    parameters = [shardstep.Parameter(name, shape, weight_dtype=dtype) for name, shape, dtype in PARAMETERS]
    optimizer = shardstep.ShardedOptimizer(job, parameters, f"{options} micro_steps: {micro_steps}")

    def fill(p, begin, values):
        array = numpy.asarray(values)
        array[:] = initial(p, begin, array.size)

    optimizer.initialize(fill)
    return optimizer


def array_of(view, dtype):
    return numpy.asarray(view(as_bits=dtype == "bf16"))


def micro_step(optimizer, step, k):
    for p in reversed(range(len(PARAMETERS))):
        _, shape, dtype = PARAMETERS[p]
        optimizer.weights_ready(p)
        optimizer.gradient_writable(p)
        values = gradient(step, k * optimizer.world_size + optimizer.rank, p, shape)
        place = array_of(lambda as_bits, p=p: optimizer.gradient(p, as_bits=as_bits), dtype)
        place[...] = to_bits(values) if dtype == "bf16" else values
        optimizer.gradient_ready(p)
    optimizer.end_micro_step()


def train(optimizer, steps, begin=0):
    """The last record."""
    for step in range(begin, begin + steps):
        for k in range(MICRO_BATCHES // optimizer.world_size):
            micro_step(optimizer, step, k)
        optimizer.step(learning_rate=0.01, max_norm=1.0)
        record = optimizer.finish_step()
    return record
