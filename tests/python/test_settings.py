"""What a parameter, a step and a record say, one by one, on one rank with one value per parameter."""

import numpy
import pytest

import shardstep


def make(parameters, options=""):
    optimizer = shardstep.ShardedOptimizer(shardstep.Job(), parameters, options)

    def fill(p, begin, values):
        numpy.asarray(values)[...] = 1.0

    optimizer.initialize(fill)
    return optimizer


def micro_step(optimizer, gradients):
    for p, value in gradients.items():
        optimizer.gradient_writable(p)
        numpy.asarray(optimizer.gradient(p))[...] = value
        optimizer.gradient_ready(p)
    optimizer.end_micro_step()


def take_step(optimizer, gradients, **arguments):
    micro_step(optimizer, gradients)
    optimizer.step(**{"learning_rate": 0.5, **arguments})
    return optimizer.finish_step()


def fp32(name, **settings):
    return shardstep.Parameter(name, (1,), weight_dtype="fp32", **settings)


def weight(optimizer, p):
    optimizer.weights_ready(p)
    return float(numpy.asarray(optimizer.weights(p))[0])


SGD = "group { sgd { momentum: 0 } }"


def test_norm_weights_weigh_squares():
    optimizer = make([fp32("a"), fp32("b", norm_weight=0), fp32("c", norm_weight=0.25)])
    assert take_step(optimizer, {0: 3.0, 1: 100.0, 2: 8.0}).gradient_norm == 5.0


def test_groups_have_their_own_rule():
    optimizer = make([fp32("a"), fp32("b", group=1)], f"{SGD} group {{ sgd {{ learning_rate_factor: 0.5 }} }}")
    take_step(optimizer, {0: 1.0, 1: 1.0})
    assert (weight(optimizer, 0), weight(optimizer, 1)) == (0.5, 0.75)


def test_frozen_parameters_stay():
    optimizer = make([fp32("a"), fp32("b", frozen=True)], SGD)
    take_step(optimizer, {0: 1.0})
    assert (weight(optimizer, 0), weight(optimizer, 1)) == (0.5, 1.0)
    with pytest.raises(shardstep.FailedPrecondition, match='"b"'):
        optimizer.gradient_writable(1)


def test_tied_parameters_are_one():
    optimizer = make([fp32("a"), fp32("b", tied_to="a")], SGD)
    numpy.asarray(optimizer.weights(0))[...] = 7.0
    assert weight(optimizer, 1) == 7.0


def test_gradients_may_have_another_dtype():
    optimizer = make([shardstep.Parameter("a", (1,), weight_dtype="bf16", gradient_dtype="fp32")], SGD)
    take_step(optimizer, {0: 2.0**-20})
    assert float(numpy.asarray(optimizer.read_state("a", "master"))[0]) == 1 - 2.0**-21
    assert int(numpy.asarray(optimizer.weights(0, as_bits=True))[0]) == 0x3F80


def test_steps_take_their_arguments():
    optimizer = make([fp32("a")], SGD)
    record = take_step(optimizer, {0: 8.0}, divisor=4.0, learning_rate=0.25)
    assert (record.gradient_norm, record.learning_rate, record.clip_factor) == (2.0, 0.25, 1.0)
    assert weight(optimizer, 0) == 0.5
    assert take_step(optimizer, {0: 8.0}, max_norm=2.0).clip_factor == pytest.approx(0.25, rel=1e-5)


def test_micro_steps_may_change():
    optimizer = make([fp32("a")], SGD)
    optimizer.set_micro_steps(3)
    micro_step(optimizer, {0: 1.0})
    micro_step(optimizer, {0: 2.0})
    record = take_step(optimizer, {}, micro_batches=2)
    assert (record.micro_steps, record.micro_batches, record.gradient_norm) == (3, 2, 1.5)


def test_records_have_every_field():
    optimizer = make([fp32("a"), fp32("b")], f"{SGD} parameter_norms: true")
    record = take_step(optimizer, {0: 3.0, 1: 4.0})
    assert (record.step, record.applied, record.applied_steps) == (1, True, 1)
    assert (record.skipped_steps, record.consecutive_skips, record.non_finite) == (0, 0, None)
    assert (record.gradient_norm, record.parameter_norms) == (5.0, [3.0, 4.0])
    assert (record.inexact_modes, record.copied_buffers, record.scale_overflow) == ([], [], False)
    assert record.step_ns > 0 and record.exposed_ns >= 0
    fields = {name for name in dir(record) if not name.startswith("_")} - {"to_bytes"}
    assert fields == {"step", "applied", "applied_steps", "skipped_steps", "consecutive_skips", "micro_steps",
                      "micro_batches", "learning_rate", "gradient_norm", "clip_factor", "non_finite", "scale_overflow",
                      "step_ns", "exposed_ns", "inexact_modes", "copied_buffers", "parameter_norms"}
    with pytest.raises(AttributeError):
        record.step = 2


def test_none_unbinds():
    optimizer = make([fp32("a")], SGD)
    optimizer.bind_gradient(0, numpy.full(1, 9, numpy.float32))
    optimizer.bind_gradient(0, None)
    assert take_step(optimizer, {0: 1.0}).copied_buffers == []
    assert weight(optimizer, 0) == 0.5


def test_cpus_have_no_graphs():
    optimizer = make([fp32("a")], SGD)
    for call in (optimizer.begin_capture, optimizer.end_capture, lambda: optimizer.replay(learning_rate=1.0)):
        with pytest.raises(shardstep.Error) as raised:
            call()
        assert raised.value.code in ("UNIMPLEMENTED", "FAILED_PRECONDITION")
