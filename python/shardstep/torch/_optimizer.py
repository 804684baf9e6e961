"""shardstep.torch.ShardedOptimizer: a torch.optim.Optimizer over the C++ optimizer."""

import atexit
import contextlib
import os
import weakref

import torch
import torch.distributed as dist

import shardstep

from . import _groups, _ranks
from ._readiness import GradientHooks, WeightHooks, bump_versions

_DTYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
_STATE_DICT_VERSION = 1

_open = weakref.WeakSet()
_owners = {}  # id of a parameter: weak reference to the open optimizer in whose memory it is, and which keeps it


@atexit.register
def _leave_jobs():
    # Before the library's own handler: parameters still use its memory. A forked child has no part in the job.
    for optimizer in list(_open):
        if optimizer._process == os.getpid():
            optimizer.close()


def _disown(ids, owner):
    for key in ids:
        if _owners.get(key) is owner:
            del _owners[key]


class _Closed:
    """In the place of a library's optimizer that is closed."""

    def __getattr__(self, name):
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
      lr, betas, eps, weight_decay, momentum, nesterov: as torch.optim's; per group too. `lr` may change every step;
        changing another one is collective.
      rule: "adamw", "sgd" or "lion"; master: "fp32", "split" (2 bytes per parameter instead of 4, the same bits) or
        "none"; rounding: "nearest" or "stochastic", of weights without a master. Per group too.
      max_norm: clips the gradient, averaged over all micro-batches, to this norm, all parameters together.
      micro_steps: backwards per step. All but the last run inside `with optimizer.accumulate()`.
      overlap_backward: gradients travel as soon as backward has written them, so nothing may change them afterwards.
        False: they travel when the micro-step ends; several backwards may add to them before.
      overlap_forward: step() returns at once and modules wait for their weights. Whatever reads weights otherwise (an
        average of weights, model.state_dict()) must call synchronize() first. False: step() returns when they are there.
      private_weights: each rank has a copy of the weights, as torch users expect. False: ranks of a host share one,
        on CPUs, which then must not be written.
      process_group, job: which ranks, see find_job; or a shardstep.Job.
      options: further lines of proto/options.proto's message Optimizer: "bucket_bytes: 8388608".

    All ranks begin with rank 0's values of these parameters if they are a process group and no `job` is given; otherwise
    they must have been initialized alike. Buffers (BatchNorm's) are the caller's business.

    From then on parameters are written by the optimizer. Who writes them otherwise (model.load_state_dict, an average
    that is swapped in), in place and on all ranks, calls adopt_weights; step refuses it by name if they do not.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        *,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        momentum=0.0,
        nesterov=False,
        rule="adamw",
        master="fp32",
        rounding="nearest",
        max_norm=None,
        micro_steps=1,
        overlap_backward=True,
        overlap_forward=False,
        private_weights=True,
        process_group=None,
        job=None,
        options="",
    ):
        self._native = None
        self._process = os.getpid()
        groups, self._names = _split_names(params)
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
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        self._refuse_other_owners()
        self._overlap_forward = overlap_forward
        self._rates = _groups.LearningRates(self.param_groups)
        self._group_texts = self._texts_of_groups()
        self._micro_steps = micro_steps
        device = _device_of(self._parameters, self._names)
        if job is None:
            if process_group is not None or (dist.is_available() and dist.is_initialized()):
                _ranks.broadcast_from_rank_0(self._parameters, process_group)
            job = _ranks.find_job(process_group, **_device_options(device))
        text = "".join(f"group {{ {group} }}\n" for group in self._group_texts)
        text += f"micro_steps: {int(micro_steps)}\nweights: {'PRIVATE' if private_weights else 'SHARED'}\n{options}"
        specs = [self._spec(i, p) for i, p in enumerate(self._parameters)]
        self._native = shardstep.ShardedOptimizer(job, specs, text)
        self._take_over_weights()
        trained = [i for i, p in enumerate(self._parameters) if p.requires_grad]
        this = weakref.ref(self)
        self._gradients = GradientHooks(
            self._native, self._parameters, self._names, trained, overlap_backward, lambda: this()._begin_step()
        )
        self._weights = None
        if overlap_forward:
            self._weights = WeightHooks(self._native, self._parameters, self._names)
            self._gradients.on_use = self._weights.used
        _open.add(self)
        self._record = None
        self._in_flight = False
        self._begun = False  # gradients of the next step are under way
        self._ended = False  # all its micro-steps have ended
        self._ended_micro_steps = 0
        self._note_weights()
        ids = [id(parameter) for parameter in self._parameters]
        _owners.update(dict.fromkeys(ids, this))
        self._disown = weakref.finalize(self, _disown, ids, this)

    # ---- The step ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def accumulate(self):
        """Around a backward that is not the step's last: ends a micro-step, whose gradients are added in fp32.

        Every rank does it `micro_steps` - 1 times per step, also one that has no micro-batch left. Losses need not be
        divided by the number of micro-batches: the step averages."""
        yield
        self._end_micro_step()

    @torch.no_grad()
    def step(self, closure=None, *, micro_batches=0, divisor=None):
        """Ends the last micro-step, and updates. Collective. Returns closure's loss.

        micro_batches: how many there were on all ranks, where ranks have run out of some; 0: micro_steps * world size.
        divisor: of the sum of gradients; None: micro_batches.
        Raises shardstep.Error, which names ranks and reason; a step with inf or NaN is skipped and `record` says where.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._begin_step()
        self._refuse_changed_weights()
        rate = self._rates.update(self.param_groups)
        self._refuse_late_settings()
        if not self._ended:  # it has when a step was refused for its arguments
            self._end_micro_step()
            self._ended = True
        self._native.step(learning_rate=rate, micro_batches=micro_batches, divisor=divisor, max_norm=self.max_norm)
        self._in_flight, self._begun, self._ended, self._ended_micro_steps = True, False, False, 0
        if self._weights is not None:
            self._weights.step_called()
            self._weights_changed()
        else:
            self.finish()
            if self._record.applied:
                self._weights_changed()
        return loss

    def synchronize(self):
        """Blocks until all weights are those of the last step."""
        if self._weights is not None:
            self._weights.wait_for_all()

    def finish(self):
        """Blocks until the last step is done, weights included; raises what went wrong in it."""
        if not self._in_flight:
            return
        self._in_flight = False
        self.synchronize()
        self._record = self._native.finish_step()
        self._native.all_weights_ready()

    @property
    def record(self):
        """What the last step did, a shardstep.StepRecord: applied, gradient_norm, clip_factor, non_finite, ... Blocks
        until it is done. None before the first."""
        self.finish()
        return self._record

    def zero_grad(self, set_to_none=True):
        """Discards the gradients of the micro-step that has not ended. Between steps there are none.

        RuntimeError when they are under way (overlap_backward), or earlier micro-steps of the step have ended."""
        if self._ended_micro_steps or not self._gradients.discard():
            raise RuntimeError(
                "zero_grad: gradients of this step are under way already, and other ranks count on them: construct the "
                "optimizer with overlap_backward=False to discard those of a micro-step before it ends"
            )

    def adopt_weights(self):
        """Collective, between steps. Master weights become the parameters' values, which the caller has written in
        place, alike on all ranks. Moments stay."""
        self.finish()
        for i, parameter in enumerate(self._parameters):
            self._refuse_other_memory(i)
            self._native.set_weights(self._names[i], parameter.detach().cpu())
        self._note_weights()

    @property
    def micro_steps(self):
        """Backwards per step. Setting it is collective, between steps."""
        return self._micro_steps

    @micro_steps.setter
    def micro_steps(self, micro_steps):
        self.finish()
        self._native.set_micro_steps(int(micro_steps))
        self._micro_steps = micro_steps

    # ---- State -------------------------------------------------------------------------------------------------------

    def state_dict(self):
        """Collective. The whole state, on the CPU, equal on every rank; it can be loaded at any world size.

        {"state": {index: {"master": fp32 tensor, "exp_avg": ..., "exp_avg_sq": ...}}, "param_groups": [...],
        "shardstep": counters}: 12 bytes per parameter with AdamW, on every rank. `save` keeps it sharded."""
        self.finish()
        for hook in getattr(self, "_optimizer_state_dict_pre_hooks", {}).values():
            hook(self)
        state = {}
        for i, parameter in enumerate(self._parameters):
            arrays = {"master": self._native.read_state(self._names[i], "master")}
            for kind, name in self._moments_of(i).items():
                arrays[name] = self._native.read_state(self._names[i], kind)
            tensors = {name: torch.from_dlpack(array) for name, array in arrays.items()}
            state[i] = {
                name: tensor.reshape(parameter.shape)
                for name, tensor in tensors.items()
                if tensor.numel() == parameter.numel()
            }
        state_dict = {
            "state": state,
            "param_groups": self._packed_groups(),
            "shardstep": {
                "version": _STATE_DICT_VERSION,
                "counters": self._native.counters,
                "begin_applied_steps": [self._native.begin_applied_step(i) for i in range(len(self._parameters))],
            },
        }
        for hook in getattr(self, "_optimizer_state_dict_post_hooks", {}).values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict):
        """Collective. What state_dict returned, the same on every rank; weights become the rounded masters. ValueError,
        and nothing has changed, names what does not fit; on all ranks alike, if they were given the same."""
        self.finish()
        for hook in getattr(self, "_optimizer_load_state_dict_pre_hooks", {}).values():
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        own = state_dict.get("shardstep")
        if own is None or own.get("version") != _STATE_DICT_VERSION:
            raise ValueError("load_state_dict: not the state of a shardstep.torch.ShardedOptimizer of this version")
        self._check_groups(state_dict["param_groups"])
        arrays = [self._arrays_of(i, state_dict["state"][i]) for i in range(len(self._parameters))]
        for i, kinds in enumerate(arrays):
            for kind, values in kinds.items():
                self._native.set_state(self._names[i], kind, values)
        self._native.set_counters(own["counters"], own["begin_applied_steps"])
        self._weights_changed(frozen_too=True)
        for group, saved in zip(self.param_groups, state_dict["param_groups"]):
            group.update({key: value for key, value in saved.items() if key != "params"})
        for hook in getattr(self, "_optimizer_load_state_dict_post_hooks", {}).values():
            hook(self)

    def save(self, directory, caller_state=b""):
        """Collective. Writes a sharded, verified checkpoint; `caller_state` (bytes) comes back from load."""
        self.finish()
        self._native.save(str(directory), caller_state)

    def load(self, directory):
        """Collective. Loads the newest whole checkpoint, of any world size: (caller_state, warnings)."""
        self.finish()
        loaded = self._native.load(str(directory))
        self._weights_changed(frozen_too=True)
        return loaded

    def digests(self):
        """Collective. Hex digests of weights, master, first_moment, second_moment: equal at every world size."""
        self.finish()
        return self._native.digests()

    def set_frozen(self, names, frozen):
        """Collective, between steps. Freezes or thaws parameters by name; sets their requires_grad."""
        if isinstance(names, str):
            raise TypeError(f"names: {names!r} is one string, must be several")
        names = list(names)
        self.finish()
        self._native.set_frozen(names, frozen)
        for name in names:
            self._parameters[self._names.index(name)].requires_grad_(not frozen)
        self._gradients.watch([i for i, p in enumerate(self._parameters) if p.requires_grad])
        self._note_weights()

    @property
    def native(self):
        """The shardstep.ShardedOptimizer underneath."""
        return self._native

    def close(self):
        """Leaves the job. Parameters keep their values, in memory of their own. Idempotent."""
        if isinstance(self._native, _Closed):
            return
        with contextlib.suppress(shardstep.Error):  # of a job that has ended already
            self.finish()
        self._gradients.remove()
        if self._weights is not None:
            self._weights.remove()
        for parameter, pointer in zip(self._parameters, self._pointers):
            if parameter.data_ptr() == pointer:
                parameter.data = parameter.data.clone()
        self._disown()
        self._native.close()
        self._native = _Closed()

    def __deepcopy__(self, _memo):
        raise TypeError("a ShardedOptimizer cannot be copied: it is a rank of a job")

    def add_param_group(self, param_group):
        """Only while constructing: parameters are laid out once."""
        if self._native is not None:
            raise NotImplementedError("add_param_group: give all parameters at construction, later ones frozen")
        super().add_param_group(param_group)

    # ---- Weights that others write ------------------------------------------------------------------------------------

    def _note_weights(self):
        self._pointers = [p.data_ptr() for p in self._parameters]
        self._versions = [p._version for p in self._parameters]

    def _weights_changed(self, frozen_too=False):
        bump_versions(p for p in self._parameters if frozen_too or p.requires_grad)
        self._versions = [p._version for p in self._parameters]

    def _refuse_changed_weights(self):
        for i, parameter in enumerate(self._parameters):
            self._refuse_other_memory(i)
            if parameter._version != self._versions[i]:
                raise RuntimeError(
                    f'"{self._names[i]}" was written since the last step, and the master weights do not know of it: '
                    "call optimizer.adopt_weights() on all ranks, after all of them have written the same"
                )
            if parameter.requires_grad != (i in self._gradients.watched):
                raise RuntimeError(f'requires_grad of "{self._names[i]}" was changed: use optimizer.set_frozen')

    def _refuse_other_memory(self, i):
        if self._parameters[i].data_ptr() != self._pointers[i]:
            raise RuntimeError(
                f'"{self._names[i]}" is no longer in the optimizer\'s memory (model.to, .data = or load_state_dict with '
                "assign=True after construction): write parameters in place, or construct the optimizer afterwards"
            )

    def _refuse_other_owners(self):
        for parameter, name in zip(self._parameters, self._names):
            owner = _owners.get(id(parameter), lambda: None)()
            if owner is not None:
                raise ValueError(f'"{name}" belongs to another ShardedOptimizer: close() that one first')

    # ---- Construction ------------------------------------------------------------------------------------------------

    def _spec(self, i, parameter):
        dtype = _DTYPES.get(parameter.dtype)
        if dtype is None:
            raise TypeError(f'"{self._names[i]}" is {parameter.dtype}; parameters must be bfloat16 or float32')
        return shardstep.Parameter(
            self._names[i],
            list(parameter.shape),
            weight_dtype=dtype,
            gradient_dtype=dtype,
            group=self._group_of(i),
            frozen=not parameter.requires_grad,
        )

    def _take_over_weights(self):
        values = [p.detach().reshape(-1) for p in self._parameters]

        def fill(p, begin, master):
            master = torch.from_dlpack(master)
            master.copy_(values[p][begin : begin + master.numel()])

        self._native.initialize(fill)
        self._native.all_weights_ready()
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters):
                weights = torch.from_dlpack(self._native.weights(i))
                self._refuse_other_values(i, weights, values[i])
                parameter.data = weights

    def _refuse_other_values(self, i, weights, mine):
        # As bits: a NaN is as good as any other value here.
        bits = torch.int16 if weights.dtype == torch.bfloat16 else torch.int32
        if torch.equal(weights.view(-1).view(bits), mine.contiguous().view(bits)):
            return
        reason = f'"{self._names[i]}" was not initialized alike on all ranks: use one seed, or broadcast it before'
        self._native.abort(reason)
        raise RuntimeError(reason)

    # ---- Groups ------------------------------------------------------------------------------------------------------

    def _group_of(self, i):
        for index, group in enumerate(self.param_groups):
            if i < len(group["params"]):
                return index
            i -= len(group["params"])
        raise IndexError(i)

    def _moments_of(self, i):
        return _groups.MOMENTS[self.param_groups[self._group_of(i)]["rule"]]

    def _texts_of_groups(self):
        for group in self.param_groups:
            _groups.check(group)
        return [_groups.text_of(g, factor) for g, factor in zip(self.param_groups, self._rates.factors)]

    def _end_micro_step(self):
        self._gradients.end_micro_step()
        self._ended_micro_steps += 1
        if self._weights is not None:
            self._weights.micro_step_ended()

    def _begin_step(self):
        # Settings can be changed until gradients are under way, and all ranks come here.
        if self._begun:
            return
        if self._weights is not None:
            self._weights.backward_begins()
        self.finish()
        self._refuse_changed_weights()
        self._rates.update(self.param_groups)
        for index, text in enumerate(self._texts_of_groups()):
            if text != self._group_texts[index]:
                self._native.set_group(index, text)
                self._group_texts[index] = text
        self._begun = True

    def _refuse_late_settings(self):
        for index, text in enumerate(self._texts_of_groups()):
            if text != self._group_texts[index]:
                raise RuntimeError(
                    f"param_groups[{index}]: settings, or its lr by another factor than other groups', were changed "
                    "after backward had begun; change them before"
                )

    def _packed_groups(self):
        packed, begin = [], 0
        for group in self.param_groups:
            end = begin + len(group["params"])
            packed.append({**{k: v for k, v in group.items() if k != "params"}, "params": list(range(begin, end))})
            begin = end
        return packed

    def _check_groups(self, saved):
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in saved]
        if sizes != saved_sizes:
            raise ValueError(f"load_state_dict: groups of {saved_sizes} parameters, and here of {sizes}")
        for index, (group, other) in enumerate(zip(self.param_groups, saved)):
            if group["rule"] != other["rule"]:
                raise ValueError(
                    f"load_state_dict: param_groups[{index}]: the rule was {other['rule']}, here it is {group['rule']}"
                )

    def _arrays_of(self, i, saved):
        """{kind: one-dimensional fp32 tensor} of what the library keeps of parameter i."""
        kinds = {"master": "master"}
        if self._parameters[i].requires_grad:
            kinds.update(self._moments_of(i))
        arrays = {}
        for kind, name in kinds.items():
            if name not in saved:
                raise ValueError(f'load_state_dict: there is no {name} of "{self._names[i]}", which was frozen then')
            values = torch.as_tensor(saved[name])
            if values.dtype != torch.float32 or values.shape != self._parameters[i].shape:
                raise ValueError(
                    f'load_state_dict: {name} of "{self._names[i]}" is {values.dtype} {list(values.shape)}, '
                    f"must be torch.float32 {list(self._parameters[i].shape)}"
                )
            arrays[kind] = values.detach().cpu().contiguous().view(-1)
        return arrays


def _split_names(params):
    """(groups or parameters without names, a name for each parameter in order)."""
    if isinstance(params, (set, frozenset)):
        raise TypeError("params: a set has no order, and ranks must agree on one")
    params = list(params)
    if not params:
        raise ValueError("params: empty")
    groups = [dict(g) for g in params] if isinstance(params[0], dict) else [{"params": params}]
    names = []
    for g, group in enumerate(groups):
        members = group["params"]
        members = [members] if isinstance(members, torch.Tensor) else list(members)
        group["params"] = [m[1] if isinstance(m, tuple) else m for m in members]
        names += [m[0] if isinstance(m, tuple) else f"group {g}, parameter {i}" for i, m in enumerate(members)]
    return groups, names


def _device_of(parameters, names):
    device = parameters[0].device
    for parameter, name in zip(parameters, names):
        if parameter.device != device:
            raise ValueError(f'"{name}" is on {parameter.device}, "{names[0]}" on {device}: must be one device')
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'"{names[0]}" is on {device}: must be on a CPU or a CUDA device')
    return device


def _device_options(device):
    if device.type == "cpu":
        return {}
    stream = torch.cuda.current_stream(device).cuda_stream
    if stream == 0:
        raise ValueError(
            "construct and train inside `with torch.cuda.stream(torch.cuda.Stream()):`; the default stream waits for "
            "all others, which would end the overlap"
        )
    return {"device": f"cuda:{device.index}", "compute_stream": stream}
