"""shardstep.torch.ShardedOptimizer as a torch.optim.Optimizer: what it does with a model, and what it refuses."""

import copy
import os
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import models
import shardstep
import shardstep.torch
from shardstep.torch import _groups, _readiness


@pytest.fixture
def model():
    return models.make()


def optimizer_of(model, **arguments):
    return models.optimizer_of(model, **{"micro_steps": 1, **arguments})


def backward(model, step=0, number=0):
    models.loss_of(model, step, number).backward()


def bits(model):
    return [p.detach().clone() for p in model.parameters()]


def test_loss_falls_and_masters_are_fp32(model):
    optimizer = optimizer_of(model, max_norm=1.0)
    losses = []
    for step in range(60):
        loss = models.loss_of(model, step % 4, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.record.applied and optimizer.record.step == 60
    assert optimizer.state_dict()["state"][0]["master"].dtype == torch.float32


def test_parameters_and_gradients_are_views_of_the_library(model):
    optimizer = optimizer_of(model)
    for i, parameter in enumerate(model.parameters()):
        assert parameter.data_ptr() == torch.from_dlpack(optimizer.native.weights(i)).data_ptr()
    backward(model)
    for i, parameter in enumerate(model.parameters()):
        assert parameter.grad.data_ptr() == torch.from_dlpack(optimizer.native.gradient(i)).data_ptr()
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())


def test_micro_steps_add_up_in_fp32_and_are_counted(model):
    optimizer = optimizer_of(model, micro_steps=3)
    for k in range(2):
        with optimizer.accumulate():
            backward(model, number=k)
    with pytest.raises(shardstep.FailedPrecondition):
        with optimizer.accumulate():
            backward(model, number=2)
        with optimizer.accumulate():
            backward(model, number=3)


def test_micro_steps_can_change_between_steps(model):
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()
    optimizer.micro_steps = 2
    with optimizer.accumulate():
        backward(model)
    backward(model, number=1)
    optimizer.step()
    assert optimizer.record.micro_steps == 2 and optimizer.micro_steps == 2


def test_a_closure_is_called_with_gradients(model):
    optimizer = optimizer_of(model)

    def closure():
        loss = models.loss_of(model, 0, 0)
        loss.backward()
        return loss

    before = bits(model)
    assert optimizer.step(closure).item() > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_second_backward_in_a_micro_step_is_refused(model):
    optimizer = optimizer_of(model)
    backward(model)
    with pytest.raises(RuntimeError, match="second backward reached .*overlap_backward=False"):
        backward(model)
    assert optimizer.record is None


def test_several_backwards_add_up_when_nothing_is_under_way():
    model, other = models.make(), models.make()
    optimizer = optimizer_of(model, overlap_backward=False)
    backward(model)
    backward(model, number=1)
    sums = [p.grad.clone() for p in model.parameters()]
    (models.loss_of(other, 0, 0)).backward()
    (models.loss_of(other, 0, 1)).backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(sums, other.parameters()))
    optimizer.step()
    assert optimizer.record.applied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("overlap", [True, False])
def test_long_gradients_are_autograds(dtype, overlap):
    def two_layers():
        return nn.Sequential(nn.Linear(1030, 701), nn.Linear(701, 3))

    model, twin = models.make(two_layers, dtype=dtype), models.make(two_layers, dtype=dtype)
    optimizer = optimizer_of(model, overlap_backward=overlap)
    x = torch.randn(5, 1030, generator=torch.Generator().manual_seed(1)).to(dtype)
    for m in (model, twin):
        m(x).float().square().sum().backward()
    if not overlap:  # what somebody puts in its place is moved too
        model[0].weight.grad = (twin[0].weight.grad * 2).t().contiguous().t()
        twin[0].weight.grad *= 2
        optimizer._gradients.end_micro_step()
    gradients = [torch.from_dlpack(optimizer.native.gradient(i)) for i in range(4)]
    assert all(torch.equal(mine, p.grad) for mine, p in zip(gradients, twin.parameters()))


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, make):
        ctx.make, ctx.shape = make, weight.shape
        return weight.sum()

    @staticmethod
    def backward(ctx, _):
        return ctx.make(ctx.shape), None


@pytest.mark.parametrize("shape", [(8, 8), (800, 900)])
@pytest.mark.parametrize(
    "make",
    [
        lambda shape: torch._neg_view(torch.ones(shape)),
        lambda shape: torch._efficientzerotensor(shape),
        lambda shape: torch.arange(shape[0] * shape[1]).float().view(shape[1], shape[0]).t(),
        lambda shape: torch.ones(shape[0], 1).expand(shape),
    ],
)
def test_gradients_of_any_form_arrive(make, shape):
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = shardstep.torch.ShardedOptimizer([("w", weight)], job=shardstep.Job())
    Backward.apply(weight, make).backward()
    assert torch.equal(torch.from_dlpack(optimizer.native.gradient(0)), make(shape) + 0)


@pytest.mark.parametrize("shape", [(8, 8), (800, 900)])
def test_a_graph_that_keeps_a_gradient_refuses_another_ones_values(shape):
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = shardstep.torch.ShardedOptimizer([("w", weight)], job=shardstep.Job())
    weight.sum().backward()
    x = torch.ones(shape, requires_grad=True)
    kept = (x * weight.grad).sum()
    optimizer.step()
    (2 * weight.sum()).backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_only_what_lies_alike_is_copied_as_bytes():
    view = torch.zeros(8, 6)
    assert _readiness._lies_as(torch.ones(8, 6), view)
    others = [torch.ones(4, 6), torch.ones(6, 8).t(), torch.ones(8, 6).bfloat16(), torch._neg_view(torch.ones(8, 6)),
              torch._efficientzerotensor(8, 6), nn.Parameter(torch.ones(8, 6)), torch.ones(8, 6, device="meta")]
    assert not any(_readiness._lies_as(other, view) for other in others)


def test_a_parameter_that_shrank_is_refused():
    weight = nn.Parameter(torch.zeros(800, 900))
    optimizer = shardstep.torch.ShardedOptimizer([("w", weight)], job=shardstep.Job())
    weight.data = weight.data[:3]
    with pytest.raises(RuntimeError, match="size"):
        weight.sum().backward()
    optimizer.close()


def test_gradients_changed_too_late_are_refused(model):
    optimizer = optimizer_of(model)
    backward(model)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(RuntimeError, match='gradient of "second.bias" was changed after backward.*max_norm'):
        optimizer.step()


def test_gradients_may_be_changed_when_nothing_is_under_way():
    clipped = models.make()
    optimizer = optimizer_of(clipped, overlap_backward=False)
    backward(clipped)
    norm = nn.utils.clip_grad_norm_(clipped.parameters(), 1e-3)
    optimizer.step()
    assert norm > 1e-3 and optimizer.record.gradient_norm == pytest.approx(1e-3, rel=2e-2)
    # A gradient that is dropped counts as zeros, one that is replaced as what it was replaced by.
    backward(clipped)
    clipped.first.weight.grad = None
    clipped.first.bias.grad = torch.ones_like(clipped.first.bias)
    optimizer.step()
    assert optimizer.record.gradient_norm >= clipped.first.bias.numel() ** 0.5


def test_zero_grad_of_model_and_optimizer_may_be_called_anywhere(model):
    twin = models.make()
    optimizer, expected = optimizer_of(model), optimizer_of(twin)
    for step in range(3):
        model.zero_grad()
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        backward(twin, step)
        expected.step()
    assert optimizer.digests() == expected.digests()


def test_norm_is_clipped_as_torch_clips():
    model, twin = models.make(), models.make()
    optimizer = optimizer_of(model, max_norm=0.01)
    backward(model)
    optimizer.step()
    backward(twin)
    norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
    assert optimizer.record.gradient_norm == pytest.approx(float(norm), rel=1e-2)
    assert optimizer.record.clip_factor == pytest.approx(0.01 / float(norm), rel=1e-2)


def test_a_step_with_nan_is_skipped_and_names_the_element(model):
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()
    before = bits(model)
    loss = models.loss_of(model, 1, 0) + model.norm.bias[7] * float("nan")
    loss.backward()
    optimizer.step()
    record = optimizer.record
    assert not record.applied and record.skipped_steps == 1
    assert record.non_finite.parameter == "norm.bias" and record.non_finite.element == 7
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_a_graph_that_saved_weights_refuses_its_backward_after_a_step(model):
    optimizer = optimizer_of(model)
    backward(model)
    stale = models.loss_of(model, 0, 1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


# ---- Parameters of all kinds ------------------------------------------------------------------------------------------


def test_frozen_parameters_stay_and_can_be_thawed(model):
    model.first.requires_grad_(False)
    optimizer = optimizer_of(model)
    frozen = model.first.weight.detach().clone()
    for step in range(3):
        backward(model, step)
        optimizer.step()
    assert torch.equal(model.first.weight, frozen)
    assert set(optimizer.state_dict()["state"][0]) == {"master"}
    optimizer.set_frozen(["first.weight"], False)
    backward(model, 3)
    optimizer.step()
    assert not torch.equal(model.first.weight, frozen)
    thawed = model.first.weight.detach().clone()
    optimizer.set_frozen(["first.weight"], True)
    backward(model, 4)
    optimizer.step()
    assert torch.equal(model.first.weight, thawed)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(33, 33), nn.Linear(33, 33, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(x + self.embed(x.argmax(-1)))


def test_a_tied_parameter_is_updated_once_with_both_gradients():
    model, twin = models.make(Tied), models.make(Tied)
    optimizer = optimizer_of(model)
    assert len(optimizer.param_groups[0]["params"]) == 1
    backward(model)
    gradient = model.embed.weight.grad.clone()
    backward(twin)
    assert torch.equal(gradient, twin.embed.weight.grad)
    optimizer.step()
    assert model.head.weight.data_ptr() == model.embed.weight.data_ptr()
    assert not torch.equal(model.head.weight, twin.head.weight)


class Branches(nn.Module):
    """Uses a parameter of its own, and one of two layers, by turns."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(33))
        self.layers = nn.ModuleList(nn.Linear(33, 33) for _ in range(2))
        self.uses = [0, 1]

    def forward(self, x):
        for i in self.uses:
            x = self.layers[i](x)
        return x * self.scale


def test_unused_parameters_count_as_zero_gradients_and_order_is_free():
    model = models.make(Branches)
    optimizer = optimizer_of(model, weight_decay=0.0)
    for model.uses in ([0], [1], [1, 0], [0, 1]):
        unused = [model.layers[i].weight.detach().clone() for i in (0, 1)]
        moments = [optimizer.native.counters["step"] > 0] * 2
        backward(model)
        optimizer.step()
        assert optimizer.record.applied
        for i in (0, 1):
            changed = not torch.equal(unused[i], model.layers[i].weight)
            # Once it has a momentum a parameter moves on, as with zero gradients in torch.
            assert changed == (i in model.uses) or moments[i]


def test_fp32_parameters_stand_beside_bf16_ones(model):
    model.norm.float()
    first = model.norm.forward
    model.norm.forward = lambda x: first(x.float()).bfloat16()
    optimizer = optimizer_of(model)
    backward(model)
    assert model.norm.weight.grad.dtype == torch.float32
    before = model.norm.weight.detach().clone()
    optimizer.step()
    assert model.norm.weight.dtype == torch.float32 and not torch.equal(before, model.norm.weight)
    state = optimizer.state_dict()["state"]
    names = [name for name, _ in model.named_parameters()]
    assert torch.equal(state[names.index("norm.weight")]["master"], model.norm.weight)


class Attention(nn.Module):
    """MultiheadAttention reads its out_proj's weights without calling out_proj."""

    def __init__(self):
        super().__init__()
        self.before, self.attention = nn.Linear(33, 33), nn.MultiheadAttention(33, 3)

    def forward(self, x):
        x = self.before(x)
        return self.attention(x, x, x)[0]


def test_weights_used_by_another_module_are_waited_for():
    model, twin = models.make(Attention), models.make(Attention)
    overlapping, expected = optimizer_of(model, overlap_forward=True), optimizer_of(twin)
    for step in range(5):
        for m, o in ((model, overlapping), (twin, expected)):
            backward(m, step)
            o.step()
    assert overlapping.digests() == expected.digests()


def test_weights_used_outside_of_their_module_only_now_and_then_are_refused():
    model = models.make(Branches)
    optimizer = optimizer_of(model, overlap_forward=True)
    backward(model)
    optimizer.step()
    loss = models.loss_of(model, 1, 0)
    backward(model, 1)
    optimizer.step()
    del loss
    with pytest.raises(RuntimeError, match='"layers.0.weight" was used outside of the module'):
        nn.functional.linear(torch.ones(33).bfloat16(), model.layers[0].weight).sum().backward()


# ---- Groups and learning rates -----------------------------------------------------------------------------------------


def groups_of(model, **second):
    named = list(model.named_parameters())
    return [
        {"params": [(n, p) for n, p in named if p.dim() > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.dim() <= 1], "weight_decay": 0.0, **second},
    ]


def test_groups_have_settings_of_their_own(model):
    model_twin = models.make()
    by_groups = shardstep.torch.ShardedOptimizer(groups_of(model, lr=5e-3), lr=1e-2)
    all_fast = shardstep.torch.ShardedOptimizer(groups_of(model_twin), lr=1e-2)
    for m, o in ((model, by_groups), (model_twin, all_fast)):
        backward(m)
        o.step()
    assert torch.equal(model.first.weight, model_twin.first.weight)
    assert not torch.equal(model.first.bias, model_twin.first.bias)


def test_rules_by_group(model):
    optimizer = shardstep.torch.ShardedOptimizer(
        groups_of(model, rule="sgd", momentum=0.9), lr=1e-2, master="split"
    )
    backward(model)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    assert set(state[0]) == {"master", "exp_avg", "exp_avg_sq"}
    assert set(state[3]) == {"master", "momentum_buffer"}


def test_schedulers_set_the_learning_rate(model):
    optimizer = optimizer_of(model, lr=0.25)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for expected in (0.25, 0.125, 0.0625):
        backward(model)
        optimizer.step()
        scheduler.step()
        assert optimizer.record.learning_rate == expected


def test_a_nan_rate_of_any_group_is_refused(model):
    optimizer = shardstep.torch.ShardedOptimizer(groups_of(model), lr=1e-2)
    backward(model)
    optimizer.param_groups[1]["lr"] = float("nan")
    with pytest.raises(shardstep.InvalidArgument, match="learning_rate"):
        optimizer.step()


def test_factors_of_rates_are_those_of_the_present_rates():
    """Not of what was before: ranks compare them."""
    rates = [1e-3, 1e-5]
    for scale in (1.0, 0.7, 0.7 * 0.9, 1e-300, 0.0):
        groups = [{"lr": rate * scale} for rate in rates]
        highest, factors = _groups.split_rates(groups)
        assert highest == rates[0] * scale
        assert [highest * factor for factor in factors] == pytest.approx([g["lr"] for g in groups], rel=1e-15)
    assert _groups.split_rates([{"lr": 0.25}, {"lr": 0.5}, {"lr": 0.0}]) == (0.5, [0.5, 1.0, 0.0])
    assert _groups.split_rates([{"lr": 0.0}, {"lr": 0.0}]) == (0.0, [1.0, 1.0])
    assert _groups.split_rates([{"lr": 0.0}, {"lr": -1.0}]) == (-1.0, [1.0, 1.0])


def test_rates_of_groups_may_change_apart(model):
    optimizer = shardstep.torch.ShardedOptimizer(groups_of(model), lr=1e-2)
    lambdas = [lambda step: 1.0, lambda step: 0.0 if step else 1.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambdas)
    backward(model)
    optimizer.step()
    scheduler.step()
    bias, weight = model.first.bias.detach().clone(), model.first.weight.detach().clone()
    backward(model)
    optimizer.step()
    assert torch.equal(bias, model.first.bias) and not torch.equal(weight, model.first.weight)


@pytest.mark.parametrize("after_backward", [False, True])
def test_settings_may_change_until_the_step(after_backward):
    model, twin = models.make(), models.make()
    changed, expected = optimizer_of(model, lr=1.0), optimizer_of(twin, lr=1e-3, weight_decay=0.5)
    if after_backward:
        backward(model)
    changed.param_groups[0].update(weight_decay=0.5, lr=1e-3)
    if not after_backward:
        backward(model)
    backward(twin)
    changed.step()
    expected.step()
    assert changed.digests() == expected.digests()


# ---- Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (dict(rule="adam"), ValueError, "rule = 'adam'"),
        (dict(betas=(0.9, 1.5)), shardstep.InvalidArgument, "beta2 = 1.5"),
        (dict(master="fp64"), ValueError, "master = 'fp64'"),
        (dict(options="bucket_byte: 1"), shardstep.InvalidArgument, "bucket_byte"),
        (dict(micro_steps=0), shardstep.InvalidArgument, "micro_steps = 0"),
    ],
)
def test_bad_options_are_named(model, arguments, error, words):
    with pytest.raises(error, match=words):
        optimizer_of(model, **arguments)


def test_a_bad_learning_rate_is_named_and_changes_nothing(model):
    optimizer = optimizer_of(model)
    before = bits(model)
    backward(model)
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(shardstep.InvalidArgument, match="learning_rate"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_models_that_cannot_be_are_refused(model):
    with pytest.raises(TypeError, match='"first.weight" is torch.float16'):
        optimizer_of(models.make(dtype=torch.float16))
    with pytest.raises(ValueError, match="is on meta"):
        optimizer_of(nn.Linear(3, 3, device="meta"))
    with pytest.raises(ValueError, match="empty"):
        shardstep.torch.ShardedOptimizer([])
    sparse = models.make(lambda: nn.Embedding(5, 3, sparse=True))
    optimizer = optimizer_of(sparse)
    with pytest.raises(TypeError, match='"weight" is torch.sparse_coo'):
        sparse(torch.tensor([1])).float().sum().backward()
    optimizer.close()
    with pytest.raises(TypeError, match="a set"):
        shardstep.torch.ShardedOptimizer(set(model.parameters()))
    with pytest.raises(NotImplementedError, match="at construction"):
        optimizer_of(model).add_param_group({"params": [nn.Parameter(torch.ones(3))]})


# ---- Weights that others write -------------------------------------------------------------------------------------------


def test_weights_that_were_written_are_refused_until_they_are_adopted(model):
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()
    moments = optimizer.state_dict()["state"][0]["exp_avg"]
    model.load_state_dict({name: torch.full_like(p, 0.5) for name, p in model.named_parameters()})
    with pytest.raises(RuntimeError, match='"first.weight" was written since the last step.*adopt_weights'):
        backward(model)
    optimizer.adopt_weights()
    state = optimizer.state_dict()["state"][0]
    assert (state["master"] == 0.5).all() and torch.equal(state["exp_avg"], moments)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_backward_that_was_refused_leaves_no_gradient(overlap):
    norms = []
    for refused in (True, False):
        model = models.make()
        optimizer = optimizer_of(model, overlap_backward=overlap)
        with torch.no_grad():
            model.norm.bias.fill_(0.25)
        if refused:
            with pytest.raises(RuntimeError, match='"norm.bias" was written'):
                backward(model)
            assert all(p.grad is None for p in model.parameters())
        optimizer.adopt_weights()
        backward(model)
        optimizer.step()
        norms.append(optimizer.record.gradient_norm)
    assert norms[0] == norms[1]


def test_weights_written_between_backward_and_step_are_refused(model):
    optimizer = optimizer_of(model)
    backward(model)
    with torch.no_grad():
        model.norm.bias.fill_(7)
    with pytest.raises(RuntimeError, match='"norm.bias" was written'):
        optimizer.step()


def test_parameters_that_moved_are_named(model):
    optimizer = optimizer_of(model)
    model.first.bias.data = torch.zeros_like(model.first.bias)
    with pytest.raises(RuntimeError, match='"first.bias" is no longer in the optimizer\'s memory'):
        backward(model)
    optimizer.close()
    assert not model.first.bias.any()


def test_one_optimizer_per_parameter(model):
    optimizer = optimizer_of(model)
    with pytest.raises(ValueError, match='"first.weight" belongs to another'):
        optimizer_of(model)
    optimizer.close()
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()


def test_requires_grad_is_changed_by_set_frozen_only(model):
    optimizer = optimizer_of(model)
    model.first.weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match='requires_grad of "first.weight" was changed'):
        backward(model)
    with pytest.raises(TypeError, match="one string"):
        optimizer.set_frozen("first.weight", True)


# ---- Going on after an error ----------------------------------------------------------------------------------------------


def test_zero_grad_discards_what_is_not_under_way():
    model, twin = models.make(), models.make()
    optimizer, expected = optimizer_of(model, overlap_backward=False), optimizer_of(twin)
    (100 * models.loss_of(model, 0, 1)).backward()
    optimizer.zero_grad()
    for m, o in ((model, optimizer), (twin, expected)):
        backward(m)
        o.step()
    assert optimizer.digests() == expected.digests()
    backward(model)
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.record.gradient_norm == 0


def test_zero_grad_refuses_to_discard_what_is_under_way(model):
    optimizer = optimizer_of(model)
    backward(model)
    with pytest.raises(RuntimeError, match="under way already"):
        optimizer.zero_grad()
    model.zero_grad()
    with pytest.raises(RuntimeError, match="was changed after backward"):
        optimizer.step()


@pytest.mark.parametrize("arguments", [dict(divisor=0.0), dict(micro_batches=-3)])
def test_a_step_refused_for_its_arguments_can_be_called_again(model, arguments):
    twin = models.make()
    optimizer, expected = optimizer_of(model), optimizer_of(twin)
    backward(model)
    with pytest.raises(shardstep.InvalidArgument):
        optimizer.step(**arguments)
    optimizer.step()
    backward(twin)
    expected.step()
    assert optimizer.digests() == expected.digests()


def test_a_failed_backward_can_be_discarded(model):
    optimizer = optimizer_of(model, overlap_backward=False)

    def fail(_):
        raise MemoryError

    handle = model.first.weight.register_hook(fail)
    with pytest.raises(MemoryError):
        backward(model)
    handle.remove()
    optimizer.zero_grad()
    backward(model)
    optimizer.step()
    assert optimizer.record.applied


def test_a_load_that_finds_nothing_changes_nothing(model, tmp_path):
    optimizer = optimizer_of(model)
    with pytest.raises(shardstep.NotFound):
        optimizer.load(tmp_path / "nothing")
    backward(model)
    optimizer.step()
    assert optimizer.record.applied


def test_state_that_does_not_fit_is_named_and_nothing_changes(model):
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()
    before = optimizer.digests()
    good = optimizer.state_dict()
    wrong_shape = {**good, "state": {**good["state"], 3: {**good["state"][3], "exp_avg": torch.zeros(2)}}}
    no_moments = {**good, "state": {**good["state"], 2: {"master": good["state"][2]["master"]}}}
    other_rule = {**good, "param_groups": [{**good["param_groups"][0], "rule": "sgd"}]}

    def with_group(**settings):
        return {**good, "param_groups": [{**good["param_groups"][0], **settings}]}

    def with_own(**own):
        return {**good, "shardstep": {**good["shardstep"], **own}}

    for state, words in ((wrong_shape, 'exp_avg of "norm.bias"'), (no_moments, 'no exp_avg of "norm.weight"'),
                         (other_rule, "rule was sgd"), ({}, "not the state"), (None, "malformed"),
                         (with_group(master="split"), "master, rounding and having momentum are fixed"),
                         (with_group(weight_decay=-1.0), "weight_decay = -1"), (with_group(betas=0.9), "malformed"),
                         (with_group(lr=-1.0), "lr = -1"), (with_group(lr=float("inf")), "lr = inf"),
                         (with_group(lr=10**400), "malformed"), (with_group(lr="x"), "load_state_dict: could not"),
                         (with_own(counters={"step": 1}), "applied_steps"), (with_own(begin_applied_steps=None), "mal")):
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(state)
    for own, words in ((dict(begin_applied_steps=[0]), "number of begin_applied_steps = 1"),
                       (dict(counters={**good["shardstep"]["counters"], "step": -1}), "step = -1")):
        with pytest.raises(shardstep.InvalidArgument, match=words):
            optimizer.load_state_dict(with_own(**own))
    assert optimizer.digests() == before
    assert optimizer.native.counters == good["shardstep"]["counters"]


def test_a_load_that_was_refused_leaves_the_settings(model):
    twin = models.make()
    optimizer, expected = optimizer_of(model), optimizer_of(twin)
    state = optimizer.state_dict()
    state["param_groups"][0]["weight_decay"] = 0.7
    del state["state"][3]["exp_avg"]
    with pytest.raises(ValueError, match="no exp_avg"):
        optimizer.load_state_dict(state)
    for m, o in ((model, optimizer), (twin, expected)):
        backward(m)
        o.step()
    assert optimizer.digests() == expected.digests()


def test_a_rank_of_a_job_is_not_copied(model):
    optimizer = optimizer_of(model)
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copying(optimizer)


def test_a_closed_one_says_so(model):
    optimizer = optimizer_of(model)
    optimizer.close()
    for call in (optimizer.step, optimizer.digests, optimizer.state_dict):
        with pytest.raises(shardstep.FailedPrecondition, match="the optimizer is closed"):
            call()


def test_what_failed_while_it_was_made_owns_nothing(model, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("shardstep.torch._optimizer.GradientHooks", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer_of(model)
    backward(model)
    optimizer_of(model).step()


def test_hooks_of_state_dicts_are_called(model):
    optimizer = optimizer_of(model)
    called = []
    optimizer.register_state_dict_pre_hook(lambda o: called.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "mine": 1})
    optimizer.register_load_state_dict_post_hook(lambda o: called.append("loaded"))
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert state["mine"] == 1 and called == ["pre", "loaded"]


def test_what_did_not_change_keeps_its_graphs(model):
    model.first.requires_grad_(False)
    optimizer = optimizer_of(model)
    x = torch.ones(2, 33, dtype=torch.bfloat16, requires_grad=True)
    kept = model.first(x).sum()
    backward(model)
    optimizer.step()
    kept.backward()
    assert x.grad is not None


FORKING = """
import os, sys, models, shardstep.torch
model = models.make()
optimizer = models.optimizer_of(model, micro_steps=1, overlap_forward=True)
models.loss_of(model, 0, 0).backward()
optimizer.step()
if os.fork() == 0:
    sys.exit(0)
assert os.wait()[1] == 0
models.loss_of(model, 1, 0).backward()
optimizer.step()
assert optimizer.record.applied
"""


def test_a_forked_child_leaves_the_job_alone():
    command = [sys.executable, "-c", FORKING]
    ended = subprocess.run(command, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


# ---- Its end -----------------------------------------------------------------------------------------------------------


def test_close_leaves_an_ordinary_model(model):
    optimizer = optimizer_of(model, overlap_forward=True)
    backward(model)
    optimizer.step()
    optimizer.synchronize()
    before = bits(model)
    optimizer.close()
    optimizer.close()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    backward(model)
    assert model.first.weight.grad is not None
    with pytest.raises(shardstep.FailedPrecondition, match="closed"):
        optimizer.digests()


def test_a_model_does_not_keep_its_optimizer():
    model = models.make()
    optimizer = optimizer_of(model, overlap_forward=True)
    backward(model)
    optimizer.step()
    gone = weakref.ref(optimizer)
    del optimizer
    assert gone() is None
    backward(model)
    assert model.first.weight.grad is not None


def test_parameters_outlive_their_optimizer(model):
    optimizer = optimizer_of(model)
    backward(model)
    optimizer.step()
    before = bits(model)
    del optimizer
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
