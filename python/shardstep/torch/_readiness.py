"""Tells the library, by autograd's and modules' hooks, which gradients are written and which weights are needed."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, Callable

import torch
from torch.utils.dlpack import from_dlpack
from torch.utils.hooks import RemovableHandle

import shardstep

from ._parameters import OwnedParameters
from ._versions import bump_versions


# What is longer goes past the caches: the library reads it when it has come from all ranks.
_LONG_BYTES = 1 << 20


class GradientHooks:
    """Brings every gradient that backward accumulates to its place in the library's gradient buffer.

    Between backwards `.grad` is None, so autograd hands over the gradient that it has computed instead of adding to
    one; the hook moves it to the buffer and makes `.grad` a view of it.
    """

    def __init__(
        self,
        native: shardstep.ShardedOptimizer,
        parameters: OwnedParameters,
        overlap: bool,
        before_first: Callable[[], None],
        on_use: Callable[[int], None],
    ) -> None:
        self._native = native
        self._parameters = parameters
        self._names = parameters.names
        self._overlap = overlap
        self._views: dict[int, torch.Tensor] = {}
        self._handles: dict[int, RemovableHandle] = {}
        self._writable: set[int] = set()  # whose view may be written in this micro-step
        self._written: dict[int, int] = {}  # version of the view once its gradient was written, in this micro-step
        self._before_first = before_first  # before the first gradient of a micro-step, or its end if there is none
        self._on_use = on_use  # called with the index of a parameter that backward reached
        self.watch(parameters.trained())

    def is_watched(self, i: int) -> bool:
        """Parameter i has gradients."""
        return i in self._handles

    def watch(self, indices: Iterable[int]) -> None:
        """From now on these parameters have gradients, and no others."""
        for i in set(self._handles) - set(indices):
            self._handles.pop(i).remove()
            del self._views[i]
        for i in set(indices) - set(self._handles):
            parameter = self._parameters[i]
            self._views[i] = from_dlpack(self._native.gradient(i))
            register = parameter.register_post_accumulate_grad_hook
            self._handles[i] = register(self._hook_of(i))  # type: ignore[no-untyped-call]
            parameter.grad = None

    def _hook_of(self, i: int) -> Callable[[torch.Tensor], None]:
        # Weakly: a model does not keep its optimizer.
        hooks = weakref.ref(self)

        def hook(_: torch.Tensor) -> None:
            alive = hooks()
            if alive is not None:
                alive._accumulated(i)

        return hook

    def _accumulated(self, i: int) -> None:
        try:
            self._take_over(i)
        except BaseException:
            # What is not written yet must not be there when backward comes again: autograd would add to it.
            for j in self._handles.keys() - self._written.keys():
                self._parameters[j].grad = None
            raise

    def _take_over(self, i: int) -> None:
        if not self._written:
            self._before_first()
        self._on_use(i)
        view = self._views[i]
        if i in self._written:
            self._accumulated_again(i, view)
            return
        gradient = self._parameters[i].grad
        assert gradient is not None
        if gradient.layout != torch.strided:
            raise TypeError(f'the gradient of "{self._names[i]}" is {gradient.layout}; Shardstep takes dense ones')
        if i not in self._writable:
            self._native.gradient_writable(i)
            self._writable.add(i)
        self._write(i, gradient.detach(), view)
        self._parameters[i].grad = view
        self._written[i] = view._version
        if self._overlap:
            self._native.gradient_ready(i)

    def _write(self, i: int, gradient: torch.Tensor, view: torch.Tensor) -> None:
        size_bytes = view.numel() * view.element_size()
        if size_bytes >= _LONG_BYTES and _lies_as(gradient, view):
            self._native.copy_gradient(i, gradient.data_ptr(), size_bytes)
            bump_versions([view])
        else:
            view.copy_(gradient)

    def _accumulated_again(self, i: int, view: torch.Tensor) -> None:
        if self._overlap:
            raise RuntimeError(
                f'a second backward reached "{self._names[i]}", whose gradient is under way already: run all but the '
                "last inside `with optimizer.accumulate()`; or construct the optimizer with overlap_backward=False, "
                "which also lets zero_grad() discard what a backward left that failed"
            )
        gradient = self._parameters[i].grad
        assert gradient is not None
        if gradient is not view:  # somebody has set .grad to None in between, or to a tensor of their own
            self._write(i, gradient.detach(), view)
            self._parameters[i].grad = view

    def end_micro_step(self) -> None:
        """All gradients of this micro-step are written: refuses what was changed too late, and forgets them."""
        if not self._written:
            self._before_first()
        if not self._overlap:
            self._mark_ready()
        else:
            self._refuse_late_changes()
        self._native.end_micro_step()
        self._forget()

    def discard(self) -> bool:
        """Forgets the gradients of this micro-step; False when they are under way, so that it cannot."""
        if self._overlap and self._written:
            return False
        for parameter in self._parameters:
            parameter.grad = None
        self._written.clear()
        return True

    def _forget(self) -> None:
        for i in self._written:
            self._parameters[i].grad = None
        self._written.clear()
        self._writable.clear()

    def _mark_ready(self) -> None:
        for i in self._writable - set(self._written):  # discarded
            self._views[i].zero_()
            self._native.gradient_ready(i)
        for i in self._written:
            gradient = self._parameters[i].grad
            view = self._views[i]
            if gradient is None:
                view.zero_()
            elif gradient is not view:
                self._write(i, gradient.detach(), view)
            self._native.gradient_ready(i)

    def _refuse_late_changes(self) -> None:
        for i, version in self._written.items():
            gradient = self._parameters[i].grad
            if gradient is self._views[i] and gradient._version == version:
                continue
            raise RuntimeError(
                f'the gradient of "{self._names[i]}" was changed after backward, when it was under way already: clip '
                "with the optimizer's max_norm, or construct the optimizer with overlap_backward=False"
            )

    def remove(self) -> None:
        for i in self._handles:
            self._parameters[i].grad = None
        self.watch([])
        self._written.clear()
        self._writable.clear()


def _lies_as(gradient: torch.Tensor, view: torch.Tensor) -> bool:
    # Values are its memory's bytes, in order, on the host.
    return (
        type(gradient) is torch.Tensor
        and gradient.device.type == "cpu"
        and gradient.dtype == view.dtype
        and gradient.shape == view.shape
        and gradient.is_contiguous()
        and not gradient.is_neg()
        and not gradient._is_zerotensor()
    )


class WeightHooks:
    """Makes modules wait for their weights while a step is in flight.

    A module waits for the parameters that it holds itself. Some read another module's (MultiheadAttention those of its
    out_proj); backward tells which parameters were used though no module waited for them, and from then on the first
    module of a forward does.
    """

    def __init__(self, native: shardstep.ShardedOptimizer, parameters: OwnedParameters) -> None:
        self._native = native
        self._names = parameters.names
        self._index_of = {id(parameter): i for i, parameter in enumerate(parameters)}
        self._pending: set[int] = set()  # whose weights nobody has waited for since the last step
        self._announced: set[int] = set()  # whose module has begun a forward since the last step
        self._early: set[int] = set()
        self._suspects: set[int] = set()  # that nobody had waited for when the first backward since the step began
        hooks = weakref.ref(self)

        def hook(module: torch.nn.Module, _inputs: Any) -> None:
            alive = hooks()
            if alive is not None:
                alive._before_forward(module)

        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(hook)
        weakref.finalize(self, self._handle.remove)

    def step_called(self) -> None:
        self._pending = set(self._index_of.values())
        self._announced.clear()

    def wait_for_all(self) -> None:
        if self._pending:
            self._native.all_weights_ready()
            self._pending.clear()

    def _before_forward(self, module: torch.nn.Module) -> None:
        own = [self._index_of.get(id(p)) for p in module._parameters.values() if p is not None]
        wanted = {i for i in own if i is not None}
        self._announced |= wanted
        if not self._pending:
            return
        for i in (wanted | self._early) & self._pending:
            self._native.weights_ready(i)
            self._pending.discard(i)

    def backward_begins(self) -> None:
        """The first since the step. What was read until now was read while the step was in flight."""
        self._suspects = set(self._pending)

    def micro_step_ended(self) -> None:
        self._suspects.clear()

    def used(self, i: int) -> None:
        """Backward reached parameter i."""
        if i in self._announced or i in self._early:
            return
        if i in self._suspects:
            raise RuntimeError(
                f'"{self._names[i]}" was used outside of the module that holds it while a step was in flight, so what '
                "was read may be old or new: construct the optimizer with overlap_forward=False"
            )
        self._early.add(i)

    def remove(self) -> None:
        self._handle.remove()

