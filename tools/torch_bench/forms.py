"""The forms of the step that are measured: each a class with

step(source_step): one training step; collective
weights(): the whole model's weights after it, bf16, in the model's order; collective
"""

import functools
import importlib

# form: module, class, its arguments.
FORMS = {
    "gradients_only": ("form_gradients_only", "GradientsOnly", {}),
    "shardstep_shared": ("form_shardstep", "Shardstep", {"private_weights": False}),
    "shardstep_private": ("form_shardstep", "Shardstep", {"private_weights": True}),
    "ddp": ("form_ddp", "Ddp", {}),
    "fsdp2": ("form_fsdp2", "Fsdp2", {"reshard_after_forward": False}),
    "fsdp2_reshard": ("form_fsdp2", "Fsdp2", {"reshard_after_forward": True}),
    "flat_reduce_scatter": ("form_flat", "FlatReduceScatter", {}),
    "flat_point_to_point": ("form_flat", "FlatPointToPoint", {}),
}

# Gradients of several ranks are added in bf16; in all others in fp32.
SUMS_IN_BF16 = {"ddp"}


def load_form(name):
    """A function of Settings that makes the form; collective. Everything that it needs is imported."""
    module, form, arguments = FORMS[name]
    return functools.partial(getattr(importlib.import_module(module), form), **arguments)
