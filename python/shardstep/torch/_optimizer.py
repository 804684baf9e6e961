"""shardstep.torch.ShardedOptimizer: a torch.optim.Optimizer over the C++ optimizer."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NoReturn

import torch
import torch.distributed as dist

import shardstep

from . import _ranks, _state_dict
from ._groups import Settings
from ._parameters import OwnedParameters, split_names
from ._readiness import GradientHooks, WeightHooks

_open: weakref.WeakSet[ShardedOptimizer] = weakref.WeakSet()


@atexit.register
def _leave_jobs() -> None:
    # Before the library's own handler: parameters still use its memory. A forked child has no part in the job.
    for optimizer in list(_open):
        if optimizer._process == os.getpid():
            optimizer.close()


class _Closed:
    """In the place of a library's optimizer that is closed."""

    def __getattr__(self, name: str) -> NoReturn:
        raise shardstep.FailedPrecondition(f"{name}: the optimizer is closed", "FAILED_PRECONDITION")


class ShardedOptimizer(torch.optim.Optimizer):
    """AdamW, SGD or Lion on fp32 master weights, sharded over the ranks of a data-parallel job.

    Parameters are bf16 or fp32 and keep their dtype; bf16 ones get fp32 master weights. Construct it once the model is
    on its device and has its dtype: from then on parameters are views of the library's weight buffer. Do not wrap the
    model in DistributedDataParallel: what that does is done here, in fp32.

    Collective, as are step, accumulate's exit and everything that says so. One thread at a time.

    Arguments:
      params: model.named_parameters(), model.parameters(), or groups of either. Names appear in errors and records.
        Those with requires_grad=False are frozen: weights without state. A tied parameter is given once.
      lr, betas, eps, weight_decay, momentum, nesterov: as torch.optim's; per group too. They may change until
        step(), on all ranks alike: it names two that differ.
      rule: "adamw", "sgd" or "lion"; master: "fp32", "split" (2 bytes per parameter instead of 4, the same bits) or
        "none"; rounding: "nearest" or "stochastic", of weights without a master. Per group too.
      max_norm: clips the gradient, averaged over all micro-batches, to this norm, all parameters together.
      micro_steps: backwards per step. All but the last run inside `with optimizer.accumulate()`.
      overlap_backward: gradients travel as soon as backward has written them, so nothing may change them afterwards.
        False: they travel when the micro-step ends; several backwards may add to them before.
      overlap_forward: step() returns at once and modules wait for their weights. Whatever reads weights otherwise (an
        average of weights, model.state_dict()) must call synchronize() first. False: step() returns with them.
      private_weights: each rank has a copy of the weights, as torch users expect. False: ranks of a host share one,
        on CPUs, which then must not be written.
      process_group, job: which ranks, see find_job; or a shardstep.Job.
      options: further lines of proto/options.proto's message Optimizer: "bucket_bytes: 8388608".

    All ranks begin with rank 0's values of these parameters if they are a process group and no `job` is given;
    otherwise they must have been initialized alike. Buffers (BatchNorm's) are the caller's business.

    From then on parameters are written by the optimizer. Who writes them otherwise (model.load_state_dict, an average
    that is swapped in), in place and on all ranks, calls adopt_weights; step refuses it by name if they do not.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        rule: str = "adamw",
        master: str = "fp32",
        rounding: str = "nearest",
        max_norm: float | None = None,
        micro_steps: int = 1,
        overlap_backward: bool = True,
        overlap_forward: bool = False,
        private_weights: bool = True,
        process_group: dist.ProcessGroup | None = None,
        job: shardstep.Job | None = None,
        options: str = "",
    ) -> None:
        self._constructed = False
        self._process = os.getpid()
        groups, names = split_names(params)
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            rule=rule,
            master=master,
            rounding=rounding,
        )
        super().__init__(groups, defaults)
        self.max_norm = max_norm
        members = [(p, index) for index, group in enumerate(self.param_groups) for p in group["params"]]
        self._parameters = OwnedParameters([p for p, _ in members], names, [index for _, index in members])
        self._settings = Settings(self.param_groups)
        self._micro_steps = micro_steps
        if job is None:
            job = self._find_job(process_group)
        text = "".join(f"group {{ {group} }}\n" for group in self._settings.texts)
        text += f"micro_steps: {int(micro_steps)}\nweights: {'PRIVATE' if private_weights else 'SHARED'}\n{options}"
        self._native = shardstep.ShardedOptimizer(job, self._parameters.specs(), text)
        self._parameters.move_to(self._native)
        self._weights = WeightHooks(self._native, self._parameters) if overlap_forward else None
        this = weakref.ref(self)
        self._gradients = GradientHooks(
            self._native,
            self._parameters,
            overlap_backward,
            before_first=lambda: this()._begin_step(),  # type: ignore[union-attr]  # backward runs inside its life
            on_use=self._weights.used if self._weights is not None else lambda i: None,
        )
        _open.add(self)
        self._record: shardstep.StepRecord | None = None
        self._in_flight = False
        self._begun = False  # gradients of the next step are under way
        self._ended = False  # all its micro-steps have ended
        self._ended_micro_steps = 0
        self._half_loaded = False
        self._parameters.own()
        self._constructed = True

    def _find_job(self, process_group: dist.ProcessGroup | None) -> shardstep.Job:
        options = _device_options(self._parameters.device())
        if process_group is not None or (dist.is_available() and dist.is_initialized()):
            _ranks.broadcast_from_rank_0(self._parameters, process_group)
        return _ranks.find_job(process_group, **options)

    # ---- The step ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Around a backward that is not the step's last: ends a micro-step, whose gradients are added in fp32.

        Every rank does it `micro_steps` - 1 times per step, also one that has no micro-batch left. Losses need not be
        divided by the number of micro-batches: the step averages."""
        yield
        self._end_micro_step()

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        micro_batches: int = 0,
        divisor: float | None = None,
    ) -> Any:
        """Ends the last micro-step, and updates. Collective. Returns closure's loss.

        micro_batches: how many there were on all ranks, where ranks have run out of some; 0: micro_steps * world size.
        divisor: of the sum of gradients; None: micro_batches.
        Raises shardstep.Error, which names ranks and reason; a step with inf or NaN is skipped and `record` says where.
        """
        self._require_open("step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._begin_step()
        self._parameters.refuse_changes(self._gradients.is_watched)
        rate = self._settings.pass_on(self._native, self.param_groups)
        if not self._ended:  # it has when a step was refused for its arguments
            self._end_micro_step()
            self._ended = True
        self._native.step(learning_rate=rate, micro_batches=micro_batches, divisor=divisor, max_norm=self.max_norm)
        self._in_flight, self._begun, self._ended, self._ended_micro_steps = True, False, False, 0
        if self._weights is not None:
            self._weights.step_called()
            self._parameters.written_by_library()
        else:
            self.finish()
            if self._record is not None and self._record.applied:
                self._parameters.written_by_library()
        return loss

    def synchronize(self) -> None:
        """Blocks until all weights are those of the last step."""
        if self._weights is not None:
            self._weights.wait_for_all()

    def finish(self) -> None:
        """Blocks until the last step is done, weights included; raises what went wrong in it."""
        if not self._in_flight:
            return
        self._in_flight = False
        self.synchronize()
        self._record = self._native.finish_step()
        self._native.all_weights_ready()

    @property
    def record(self) -> shardstep.StepRecord | None:
        """What the last step did: applied, gradient_norm, clip_factor, non_finite, ... Blocks until it is done. None
        before the first."""
        self.finish()
        return self._record

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Discards the gradients of the micro-step that has not ended. Between steps there are none.

        RuntimeError when they are under way (overlap_backward), or earlier micro-steps of the step have ended."""
        if self._ended_micro_steps or not self._gradients.discard():
            raise RuntimeError(
                "zero_grad: gradients of this step are under way already, and other ranks count on them: construct the "
                "optimizer with overlap_backward=False to discard those of a micro-step before it ends"
            )

    def adopt_weights(self) -> None:
        """Collective, between steps. Master weights become the parameters' values, which the caller has written in
        place, alike on all ranks. Moments stay."""
        self.finish()
        for i, parameter in enumerate(self._parameters):
            self._parameters.refuse_other_memory(i)
            self._native.set_weights(self._parameters.names[i], parameter.detach().cpu())
        self._parameters.note_written()

    @property
    def micro_steps(self) -> int:
        """Backwards per step. Setting it is collective, between steps."""
        return self._micro_steps

    @micro_steps.setter
    def micro_steps(self, micro_steps: int) -> None:
        self.finish()
        self._native.set_micro_steps(int(micro_steps))
        self._micro_steps = micro_steps

    def _begin_step(self) -> None:
        if self._begun:
            return
        if self._weights is not None:
            self._weights.backward_begins()
        self.finish()
        if self._half_loaded:
            raise RuntimeError("load_state_dict failed half-way: load a whole state, or a checkpoint, before a step")
        self._parameters.refuse_changes(self._gradients.is_watched)
        self._begun = True

    def _end_micro_step(self) -> None:
        self._gradients.end_micro_step()
        self._ended_micro_steps += 1
        if self._weights is not None:
            self._weights.micro_step_ended()

    # ---- State -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Collective. The whole state, on the CPU, equal on every rank; it can be loaded at any world size.

        {"state": {index: {"master": fp32 tensor, "exp_avg": ..., "exp_avg_sq": ...}}, "param_groups": [...],
        "shardstep": counters}: 12 bytes per parameter with AdamW, on every rank. `save` keeps it sharded."""
        self.finish()
        for hook in self._hooks("state_dict_pre"):
            hook(self)
        state_dict = _state_dict.pack(self._native, self._parameters, self.param_groups)
        for hook in self._hooks("state_dict_post"):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Collective. What state_dict returned, the same on every rank; weights become the rounded masters.

        ValueError names what does not fit, and nothing has changed; shardstep.InvalidArgument where it does not fit on
        another rank, which it names. Values that differ between ranks are found while they are loaded, and step refuses
        to go on until a state is loaded that is whole; settings that differ are found by the next step."""
        self.finish()
        try:
            for hook in self._hooks("load_state_dict_pre"):
                changed = hook(self, state_dict)
                state_dict = state_dict if changed is None else changed
            unpacked = _state_dict.Unpacked(
                state_dict, self._native, self._parameters, self._settings, self.param_groups
            )
        except Exception as error:
            with contextlib.suppress(shardstep.InvalidArgument):  # which is this one
                self._native.agree("load_state_dict", str(error) or repr(error))
            raise
        self._native.agree("load_state_dict")
        self._half_loaded = True
        try:
            unpacked.give_to(self._native, self.param_groups)
            self._half_loaded = False
        finally:
            self._parameters.written_by_library(frozen_too=True)
        for hook in self._hooks("load_state_dict_post"):
            hook(self)

    def _hooks(self, kind: str) -> list[Callable[..., Any]]:
        # Torch 2.1 has not all kinds.
        return list(getattr(self, f"_optimizer_{kind}_hooks", {}).values())

    def save(self, directory: str | os.PathLike[str], caller_state: bytes = b"") -> None:
        """Collective. Writes a sharded, verified checkpoint; `caller_state` comes back from load."""
        self.finish()
        self._settings.pass_on(self._native, self.param_groups)
        self._native.save(directory, caller_state)

    def load(self, directory: str | os.PathLike[str]) -> tuple[bytes, list[str]]:
        """Collective. Loads the newest whole checkpoint, of any world size: (caller_state, warnings)."""
        self.finish()
        loaded = self._native.load(directory)
        self._half_loaded = False
        self._parameters.written_by_library(frozen_too=True)
        return loaded

    def digests(self) -> dict[str, str]:
        """Collective. Hex digests of weights, master, first_moment, second_moment: equal at every world size."""
        self.finish()
        return self._native.digests()

    def set_frozen(self, names: Iterable[str], frozen: bool) -> None:
        """Collective, between steps. Freezes or thaws parameters by name; sets their requires_grad."""
        if isinstance(names, str):
            raise TypeError(f"names: {names!r} is one string, must be several")
        names = list(names)
        self.finish()
        self._native.set_frozen(names, frozen)
        for name in names:
            self._parameters[self._parameters.names.index(name)].requires_grad_(not frozen)
        self._gradients.watch(self._parameters.trained())
        self._parameters.note_written()

    # ---- Its life ----------------------------------------------------------------------------------------------------

    @property
    def native(self) -> shardstep.ShardedOptimizer:
        """The library's optimizer underneath."""
        return self._native

    def close(self) -> None:
        """Leaves the job. Parameters keep their values, in memory of their own. Idempotent."""
        if isinstance(self._native, _Closed):
            return
        with contextlib.suppress(shardstep.Error):  # of a job that has ended already
            self.finish()
        self._gradients.remove()
        if self._weights is not None:
            self._weights.remove()
        self._parameters.move_out()
        self._native.close()
        self._native = _Closed()  # type: ignore[assignment]

    def _require_open(self, call: str) -> None:
        if isinstance(self._native, _Closed):
            raise shardstep.FailedPrecondition(f"{call}: the optimizer is closed", "FAILED_PRECONDITION")

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a ShardedOptimizer cannot be copied or pickled: it is a rank of a job")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while constructing: parameters are laid out once."""
        if self._constructed:
            raise NotImplementedError("add_param_group: give all parameters at construction, later ones frozen")
        super().add_param_group(param_group)


def _device_options(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {}
    stream = torch.cuda.current_stream(device).cuda_stream
    if stream == 0:
        raise ValueError(
            "construct and train inside `with torch.cuda.stream(torch.cuda.Stream()):`; the default stream waits for "
            "all others, which would end the overlap"
        )
    return {"device": f"cuda:{device.index}", "compute_stream": stream}
