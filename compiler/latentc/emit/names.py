"""Names that emitted files use themselves, and attributes of PyTorch's modules: no value or member may hide them."""

from __future__ import annotations

import unicodedata
from keyword import iskeyword

from latentc.emit.helpers import HELPERS
from latentc_runtime import sources

IMPORTED = frozenset(
    ("torch", "nn", "F", "Tensor", "np", "math", "tqdm", "SDPBackend", "sdpa_kernel", *sources.__all__)
)
IMPORTED |= frozenset(("Callable", "Mapping", "Any", "dataclass"))
"""Names that model.py, objective.py and sampler.py import."""

DEFINED = frozenset(
    ("CONSTANTS", "NETWORKS", "CONDITIONS", "SETTINGS", "PROGRAMS", "UPDATES", "ROLLOUT", "Update", "table")
)
"""Names that these files define or take from constants.py, beside helpers."""

BUILTINS = frozenset(("dict", "enumerate", "float", "int", "len", "list", "map", "range", "reversed", "super"))
BUILTINS |= frozenset(("tuple", "zip", "RuntimeError"))
"""Builtins that emitted functions use."""

TAKEN = frozenset(("self",)) | IMPORTED | DEFINED | BUILTINS | frozenset(HELPERS)

MODULE = frozenset(
    (
        *("T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "compile"),
        *("cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer"),
        *("get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "load_state_dict", "modules", "mtia"),
        *("named_buffers", "named_children", "named_modules", "named_parameters", "parameters"),
        *("register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook"),
        *("register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook"),
        *("register_load_state_dict_pre_hook", "register_module", "register_parameter"),
        *("register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_", "reset_parameters"),
        *("set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train", "training"),
        *("type", "xpu", "zero_grad"),
    )
)
"""Public attributes of nn.Module, and `reset_parameters`, which emitted classes have."""

CONTAINER = frozenset(("append", "clear", "extend", "insert", "items", "keys", "pop", "update", "values"))
"""Public attributes that nn.ModuleDict and nn.ModuleList have beside those of nn.Module."""

LAYER = frozenset(
    (
        *("affine", "dilation", "elementwise_affine", "embedding_dim", "eps", "from_pretrained", "groups"),
        *("in_channels", "in_features", "kernel_size", "max_norm", "momentum", "norm_type", "normalized_shape"),
        *("num_batches_tracked", "num_channels", "num_embeddings", "num_features", "num_groups", "out_channels"),
        *("out_features", "output_padding", "padding", "padding_idx", "padding_mode", "reset_running_stats"),
        *("scale_grad_by_freq", "sparse", "stride", "track_running_stats", "transposed"),
        *("dim", "force_norm", "g", "kept", "normed", "output_std", "u"),  # of layers with normalised weights
    )
)
"""Public attributes that layers have beside those of nn.Module, except weights, biases and running statistics."""


def is_plain(name: str) -> bool:
    """True if `object.name` in a class body reads the attribute `name`: no keyword, nothing that Python rewrites."""
    mangled = name.startswith("__")
    return name.isidentifier() and not iskeyword(name) and not mangled and unicodedata.normalize("NFKC", name) == name


def public(name: str) -> str:
    """An identifier without leading underscores, for attributes: private ones of nn.Module are not listed here."""
    return name.lstrip("_") or "v"
