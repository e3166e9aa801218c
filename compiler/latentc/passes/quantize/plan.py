"""Quantisation plans: which linear and convolution layers compute, or only store their weights, in 8 or 4 bits.

A plan maps the full path of a layer's weight, `main.blocks.3.attn.qkv.weight`, to how the layer is quantised. Scales of
activations and smoothing vectors are measured and passed along with the weights under the path of the layer:
`main.blocks.3.attn.qkv.input_scale` f32[] and `….smooth` f32[in]. Layers that read the same value share them under the
path of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from latentc.ir.core import Function, Module, Node, Param, Value, callees, join

Scheme = Literal[
    "int8", "int8_dynamic", "int8_weights", "int4_weights", "fp8", "nvfp4", "nvfp4_weights", "mxfp4_weights"
]

LARGEST: dict[str, float] = {"int8": 127.0, "fp8": 448.0, "nvfp4": 6.0 * 448.0}
"""{scheme with measured activation scales: largest quantised magnitude}; scale = max|x| / that."""

FLOAT4: dict[str, str] = {"nvfp4": "nvfp4", "nvfp4_weights": "nvfp4", "mxfp4_weights": "mxfp4"}
"""{scheme: format of its 4-bit floats}, see `latentc.ir.ops.float4`"""

_LAYERS = ("linear", "conv")
_NORMS = ("spectral_norm", "forced_norm", "weight_norm")


@dataclass(frozen=True)
class LayerQuant:
    """How one layer is quantised.

    `smooth`: its input is divided and its weight multiplied by the measured vector (Xiao et al. 2023, arXiv:2211.10438,
    equation 3). `narrow`: int8 weights use 7 bits, for CPUs that add pairs of products in 16 bits: two products of 255
    and 127 saturate there, two of 255 and 63 do not.
    """

    scheme: Scheme
    smooth: bool = False
    narrow: bool = False


@dataclass(frozen=True)
class Quantization:
    """The plan {path of a layer's weight: how it is quantised}, and the measured tensors by path."""

    plan: Mapping[str, LayerQuant]
    tensors: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A place where a layer runs: its input is `value` of `function`, called under the state-dict prefix `prefix`."""

    function: str
    prefix: str
    value: Value


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantised: its op, the shape of its weight [out, in, …], and the places where it runs.

    `group` is the path of its measured tensors: that of the first layer that reads the same value, without `.weight`. A
    layer has a site in each function that was derived from its block.
    """

    op: str
    shape: tuple[int, ...]
    group: str
    sites: tuple[Site, ...]


def quantizable(module: Module, entries: Iterable[str] | None = None, normed: bool = False) -> dict[str, Layer]:
    """{path of the weight: layer} of the linear and convolution layers that entries (default: all) reach, in order.

    `normed`: also layers that read a norm of their weight, which passes fold into it for engines. Paths of entries that
    are methods of a network begin with the network's name, as in its calls from a sampler.
    """
    found: dict[str, Layer] = {}

    def visit(fn: Function, prefix: str) -> None:
        if (fn.name, prefix) in seen:
            return
        seen.add((fn.name, prefix))
        layers = layers_of(fn, normed)
        for node in fn.nodes:
            if node in layers:
                weight, leader = layers[node]
                path = join(prefix, weight.name)
                site = Site(fn.name, prefix, node.inputs[0])
                known = found.get(path)
                group = join(prefix, leader)
                shape = tuple(int(d) for d in weight.type.shape)  # type: ignore[arg-type]
                sites = (*known.sites, site) if known else (site,)
                found[path] = Layer(node.op, shape, known.group if known else group, sites)
            for callee in callees(node):
                visit(module.functions[callee], join(prefix, node.attrs.get("name", "")))

    seen: set[tuple[str, str]] = set()
    for entry in module.entries if entries is None else entries:
        visit(module.entry(entry), prefix_of(module, entry))
    return found


def prefix_of(module: Module, entry: str) -> str:
    """The prefix of an entry's weights: the name of the network for its methods, else nothing."""
    return entry.split(".")[0] if module.entry(entry).origin is not None else ""


def stem(weight: str) -> str:
    """`attn.qkv` of `attn.qkv.weight`."""
    return weight.removesuffix(".weight")


def layers_of(fn: Function, normed: bool = False) -> dict[Node, tuple[Param, str]]:
    """{layer of a function: its weight, and the name of its measured tensors in the function}; `quantizable` above."""
    params: dict[Value, Param] = {p.value: p for p in fn.params}
    if normed:
        params |= {n.outputs[0]: params[n.inputs[0]] for n in fn.nodes if n.op in _NORMS and n.inputs[0] in params}
    first: dict[Value, str] = {}
    layers: dict[Node, tuple[Param, str]] = {}
    for node in fn.nodes:
        weight = params.get(node.inputs[1]) if node.op in _LAYERS else None
        if weight is not None and weight.kind == "weight":
            layers[node] = weight, first.setdefault(node.inputs[0], stem(weight.name))
    return layers
