"""shardstep.ShardedOptimizer of one rank: arrays, steps, errors, lifetimes."""

import gc
import inspect
import pathlib
import subprocess
import sys
import threading
import weakref

import numpy
import pytest

import shardstep
import training


@pytest.fixture
def optimizer():
    return training.make(shardstep.Job())


def weights(optimizer, p):
    return training.array_of(lambda as_bits: optimizer.weights(p, as_bits=as_bits), training.PARAMETERS[p][2])


def test_masters_are_filled_and_weights_are_their_rounding(optimizer):
    for p, (name, shape, dtype) in enumerate(training.PARAMETERS):
        values = training.initial(p, 0, int(numpy.prod(shape)))
        assert numpy.array_equal(numpy.asarray(optimizer.read_state(name, "master")), values)
        expected = training.to_bits(values) if dtype == "bf16" else values
        assert numpy.array_equal(weights(optimizer, p), expected.reshape(shape))


def test_a_step_is_adamw(optimizer):
    """One step from zero moments, by AdamW's formula in double."""
    record = training.train(optimizer, 1)
    assert record.applied and record.step == 1 and record.micro_steps == record.micro_batches == 12
    grads = [
        sum(training.gradient(0, m, p, shape).astype(numpy.float64) for m in range(12)) / 12
        for p, (_, shape, _) in enumerate(training.PARAMETERS)
    ]
    norm = numpy.sqrt(sum(numpy.sum(g**2) for g in grads))
    assert record.gradient_norm == pytest.approx(norm, rel=1e-6)
    assert record.clip_factor == pytest.approx(1 / norm, rel=1e-6)
    for p, (name, shape, _) in enumerate(training.PARAMETERS):
        g = grads[p].reshape(-1) / norm
        w = training.initial(p, 0, g.size).astype(numpy.float64)
        expected = w - 0.01 * 0.1 * w - 0.01 * g / (numpy.abs(g) + 1e-8)
        got = numpy.asarray(optimizer.read_state(name, "master"))
        assert numpy.allclose(got, expected, rtol=2e-6, atol=2e-7)


def test_arrays_are_in_place_and_have_the_parameters_shape(optimizer):
    view = numpy.asarray(optimizer.gradient(0, as_bits=True))
    assert view.shape == (37, 61) and view.dtype == numpy.uint16
    view[3, 5] = 0x4040
    assert numpy.from_dlpack(optimizer.gradient(0, as_bits=True))[3, 5] == 0x4040
    assert numpy.from_dlpack(optimizer.gradient(2)).dtype == numpy.float32
    assert optimizer.weights(0).__dlpack_device__() == (1, 0)


def test_callers_buffers_take_the_place_of_gradients():
    ours, bound = training.make(shardstep.Job()), training.make(shardstep.Job())
    gradients = [numpy.zeros(shape, numpy.uint16 if dtype == "bf16" else numpy.float32)
                 for _, shape, dtype in training.PARAMETERS]
    kept = numpy.zeros((37, 61), numpy.uint16)
    for p, array in enumerate(gradients):
        bound.bind_gradient(p, array)
    bound.bind_weights(0, kept)
    training.train(ours, 1)
    for k in range(training.MICRO_BATCHES):
        for p, (_, shape, dtype) in enumerate(training.PARAMETERS):
            bound.gradient_writable(p)
            values = training.gradient(0, k, p, shape)
            gradients[p][...] = training.to_bits(values) if dtype == "bf16" else values
            bound.gradient_ready(p)
        bound.end_micro_step()
    bound.step(learning_rate=0.01, max_norm=1.0)
    assert "gradient" in " ".join(bound.finish_step().copied_buffers)
    bound.weights_ready(0)
    assert bound.digests() == ours.digests()
    assert numpy.array_equal(kept, weights(bound, 0))


@pytest.mark.parametrize(
    "array, words",
    [
        (numpy.zeros((37, 61), numpy.float32), "float32, must be bf16"),
        (numpy.zeros((37, 60), numpy.uint16), "2220 elements, must be of 2257"),
        (numpy.zeros((61, 37), numpy.uint16).T, "not contiguous"),
    ],
)
def test_wrong_buffers_are_refused_and_never_copied(optimizer, array, words):
    for bind in (optimizer.bind_gradient, optimizer.bind_weights):
        with pytest.raises(shardstep.InvalidArgument, match=words):
            bind(0, array)
    with pytest.raises(shardstep.InvalidArgument, match=words):
        optimizer.set_weights("matrix", array)


def test_what_is_only_read_may_be_read_only(optimizer):
    values = numpy.full(15, 2, numpy.float32)
    values.flags.writeable = False
    optimizer.set_weights("scale", values)
    optimizer.set_state("scale", "first_moment", values)
    assert numpy.array_equal(weights(optimizer, 2).reshape(-1), values)
    with pytest.raises(shardstep.InvalidArgument, match="to be read and written"):
        optimizer.bind_weights(2, values)


def test_weights_and_state_can_be_set(optimizer):
    training.train(optimizer, 1)
    moments = numpy.asarray(optimizer.read_state("matrix", "second_moment"))
    bits = training.to_bits(numpy.full((37, 61), 0.75))
    optimizer.set_weights("matrix", bits)
    assert numpy.array_equal(weights(optimizer, 0), bits)
    assert set(numpy.asarray(optimizer.read_state("matrix", "master"))) == {0.75}
    assert numpy.array_equal(numpy.asarray(optimizer.read_state("matrix", "second_moment")), moments)
    optimizer.set_state("matrix", "first_moment", numpy.full(37 * 61, 3, numpy.float32))
    assert set(numpy.asarray(optimizer.read_state("matrix", "first_moment"))) == {3.0}


def test_groups_and_freezing(optimizer):
    before = weights(optimizer, 1).copy()
    optimizer.set_frozen(["bias"], True)
    for p in (0, 2, 3):
        optimizer.gradient_writable(p)
    for _ in range(training.MICRO_BATCHES):
        optimizer.end_micro_step()
    optimizer.step(learning_rate=0.1)
    optimizer.finish_step()
    assert numpy.array_equal(weights(optimizer, 1), before)
    assert numpy.asarray(optimizer.read_state("bias", "first_moment")).size == 0
    assert optimizer.add_group("adamw { weight_decay: 0 }", ["bias"]) == 1
    assert optimizer.begin_applied_step(1) == 1
    optimizer.set_group(1, "adamw { weight_decay: 0.5 }")
    optimizer.agree("reading")
    with pytest.raises(shardstep.InvalidArgument, match="^rank 0: the file is short"):
        optimizer.agree("reading", "the file is short")
    with pytest.raises(shardstep.FailedPrecondition, match="rule"):
        optimizer.set_group(0, "lion {}")


def test_a_gradient_is_copied_from_an_address():
    optimizer = shardstep.ShardedOptimizer(shardstep.Job(), [shardstep.Parameter("w", [700, 1003], weight_dtype="fp32")])
    gradient = numpy.arange(700 * 1003, dtype=numpy.float32)
    optimizer.copy_gradient(0, gradient.ctypes.data, gradient.nbytes)
    assert numpy.array_equal(numpy.asarray(optimizer.gradient(0)).reshape(-1), gradient)
    with pytest.raises(shardstep.InvalidArgument, match="from"):
        optimizer.copy_gradient(0, 0, gradient.nbytes)
    with pytest.raises(shardstep.InvalidArgument, match='"w": size_bytes = 4: must be 2808400'):
        optimizer.copy_gradient(0, gradient.ctypes.data, 4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda o: o.weights(4), shardstep.InvalidArgument, r"parameter 4 is not in \[0, 4\)"),
        (lambda o: o.read_state("none", "master"), shardstep.NotFound, '"none"'),
        (lambda o: o.read_state("bias", "third"), shardstep.InvalidArgument, 'kind = "third"'),
        (lambda o: o.gradient_ready(0), shardstep.FailedPrecondition, "GradientWritable"),
        (lambda o: o.step(learning_rate=0.1), shardstep.FailedPrecondition, "micro"),
        (lambda o: o.set_group(0, "adamw { beta9: 1 }"), shardstep.InvalidArgument, "group:1:14.*beta9"),
        (lambda o: o.set_counters({**o.counters, "step": 2**63 - 1}), shardstep.InvalidArgument,
         "step = 9223372036854775807"),
        (lambda o: o.set_counters({"step": 1, "applied_steps": 1, "skipped_steps": 0}), shardstep.InvalidArgument,
         'needs "consecutive_skips"'),
        (lambda o: o.set_away(-1.0), shardstep.InvalidArgument, "seconds = -1"),
        (lambda o: o.begin_applied_step(5000), shardstep.InvalidArgument, "parameter 5000"),
        (lambda o: o.bind_gradient(0, [1, 2]), shardstep.InvalidArgument, 'gradient of "matrix": no array'),
        (lambda o: o.set_counters({"steps": 1}), shardstep.InvalidArgument, '"steps"'),
        (lambda o: o.load("/nonexistent/place"), shardstep.NotFound, "/nonexistent/place"),
        (lambda o: shardstep.Job(meet="smoke"), shardstep.InvalidArgument, 'meet = "smoke": must be one of alone'),
        (lambda o: shardstep.Parameter("a", (1,), weight_dtype="fp8"), shardstep.InvalidArgument, 'weight_dtype = "fp8"'),
    ],
)
def test_errors_have_a_class_and_name_what_is_wrong(optimizer, call, error, words):
    with pytest.raises(error, match=words) as raised:
        call(optimizer)
    assert isinstance(raised.value, shardstep.Error)
    assert raised.value.code == raised.value.cause != "UNKNOWN"


@pytest.mark.parametrize(
    "job, options, words",
    [
        (dict(), "bucket_byte: 1", 'options:1:12.*"bucket_byte"'),
        (dict(), "bucket_bytes: -1", "bucket_bytes = -1"),
        (dict(meet="tcp", rank=2, world_size=2, id="x"), "", "rank = 2"),
        (dict(meet="tcp", world_size=2), "", "id: empty"),
        (dict(device="tpu"), "", 'device = "tpu"'),
        (dict(deadline_seconds=0), "", "deadline"),
        (dict(deadline_seconds=float("nan")), "", "deadline"),
        (dict(rank=3, world_size=4, id="a:1"), "", "meet: alone, and rank = 3 of 4"),
    ],
)
def test_bad_jobs_and_options_are_named(job, options, words):
    with pytest.raises(shardstep.InvalidArgument, match=words):
        training.make(shardstep.Job(**job), options=options)


def test_a_gpu_that_is_not_there_is_said_so():
    with pytest.raises(shardstep.Error, match="(?i)cuda"):
        training.make(shardstep.Job(device="cuda"))


def test_records_say_what_was_not_finite(optimizer):
    for k in range(training.MICRO_BATCHES):
        optimizer.gradient_writable(2)
        numpy.asarray(optimizer.gradient(2))[...] = numpy.inf if k == 7 else 1.0
        optimizer.gradient_ready(2)
        optimizer.end_micro_step()
    optimizer.step(learning_rate=0.1)
    record = optimizer.finish_step()
    place = record.non_finite
    assert not record.applied and record.gradient_norm is None
    assert (place.parameter, place.element, place.micro_batch, place.rank) == ("scale", 0, 7, 0)
    assert "scale" in repr(record) and b"scale" in record.to_bytes()
    assert optimizer.counters["skipped_steps"] == 1


def test_memory_is_what_was_estimated(optimizer):
    parameters = [shardstep.Parameter(name, shape, weight_dtype=dtype) for name, shape, dtype in training.PARAMETERS]
    options = f"{training.OPTIONS} micro_steps: 12"
    assert shardstep.ShardedOptimizer.estimate_memory(parameters, options, 1) == optimizer.memory
    assert optimizer.memory["gradient_bytes"] > 2 * 37 * 61


def test_checkpoints_hold_the_callers_state(optimizer, tmp_path):
    training.train(optimizer, 1)
    digests = optimizer.digests()
    optimizer.save(tmp_path / "run", b"a\0b")
    training.train(optimizer, 1, begin=1)
    assert optimizer.load(tmp_path / "run") == (b"a\0b", [])
    assert optimizer.digests() == digests and optimizer.counters["step"] == 1


def test_a_damaged_checkpoint_is_named(optimizer, tmp_path):
    optimizer.save(tmp_path)
    for shard in tmp_path.rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(shardstep.DataLoss, match=str(tmp_path)):
        optimizer.load(tmp_path)


def test_an_exception_of_fill_comes_through(optimizer):
    with pytest.raises(ZeroDivisionError):
        optimizer.initialize(lambda p, begin, values: 1 / 0)
    with pytest.raises(shardstep.Aborted, match="ZeroDivisionError"):
        training.train(optimizer, 1)


def test_filled_arrays_may_be_kept(optimizer):
    kept = []
    optimizer.initialize(lambda p, begin, values: kept.append(numpy.asarray(values)))
    for array in kept:
        array[...] = 9.0
    assert not numpy.asarray(optimizer.read_state("matrix", "master")).any()


def test_arrays_outlive_the_optimizer(optimizer):
    array, expected = weights(optimizer, 0), weights(optimizer, 0).copy()
    optimizer.close()
    optimizer.close()
    del optimizer
    gc.collect()
    others = [training.make(shardstep.Job()) for _ in range(3)]  # would take the memory
    for other in others:
        training.train(other, 1)
    assert numpy.array_equal(array, expected)


def test_a_closed_optimizer_refuses_calls(optimizer):
    optimizer.close()
    for call in (lambda: optimizer.step(learning_rate=1.0), lambda: optimizer.weights(0), lambda: optimizer.rank,
                 lambda: optimizer.digests()):
        with pytest.raises(shardstep.FailedPrecondition, match="closed"):
            call()


def test_calls_may_come_from_another_thread(optimizer):
    expected = training.make(shardstep.Job())
    thread = threading.Thread(target=training.train, args=(optimizer, 2))
    thread.start()
    thread.join()
    training.train(expected, 2)
    assert optimizer.digests() == expected.digests()


def test_everything_has_a_docstring_and_a_stub():
    stub = (pathlib.Path(shardstep.__file__).parent / "_native.pyi").read_text()
    for name in shardstep.__all__:
        thing = getattr(shardstep, name)
        assert inspect.getdoc(thing), name
    for name in (name for name in dir(shardstep.ShardedOptimizer) if not name.startswith("_")):
        assert f"def {name}(" in stub, name


def test_bound_arrays_live_as_long_as_they_are_used(optimizer):
    array = numpy.zeros((37, 61), numpy.uint16)
    alive = weakref.ref(array)
    optimizer.bind_gradient(0, array)
    del array
    assert alive() is not None
    kept = optimizer.weights(1)
    optimizer.close()
    assert alive() is not None  # by `kept`, whose memory is a part of the optimizer that reads the array
    del kept
    assert alive() is None


def test_a_forked_child_leaves_the_job_alone():
    program = """if True:
        import os, sys, shardstep, training
        optimizer = training.make(shardstep.Job())
        training.train(optimizer, 1)
        child = os.fork()
        if child == 0:
            del optimizer
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        training.train(optimizer, 1, begin=1)
    """
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60,
                           cwd=pathlib.Path(__file__).parent)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_process_that_ends_with_an_open_optimizer_ends_quietly():
    program = "import shardstep, training; kept = training.make(shardstep.Job()); view = kept.weights(0)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
                           cwd=pathlib.Path(__file__).parent)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
