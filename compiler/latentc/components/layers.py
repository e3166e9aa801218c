"""Layers of convolutional networks: an op and its params under one name, as torch.nn has them.

Weights start as `init` says ("normal", "orthogonal"), and biases at zero; "linear_default" is PyTorch's for both.

With `spectral`, a layer's weight is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957), which
one power iteration finds from the vector `NAME.u` that training keeps. Symbols: B batch, C channels.
"""

from __future__ import annotations

import math
from typing import Any

from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import product

EPS = 1e-12
"""Least length that spectral normalisation divides a vector by."""

MP_EPS = 1e-4
"""Added to the root mean square that magnitude-preserving layers divide by."""

INITS: dict[str, tuple[str, dict[str, Any]]] = {
    "normal": ("normal", {"std": 0.02}),
    "unit_normal": ("normal", {}),
    "xavier": ("xavier_uniform", {}),
    "xavier_matrix": ("xavier_uniform", {"of": "matrix"}),
    "xavier_relu": ("xavier_uniform", {"gain": math.sqrt(2)}),
    "kaiming_fan_out": ("kaiming_normal", {"mode": "fan_out"}),
    "lecun": ("kaiming_normal", {"gain": 1.0}),
    "small_lecun": ("kaiming_normal", {"gain": 0.32}),
}
"""Names of initialisers with arguments of their own: {name: (kind, arguments)}; other names are kinds."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation by channel, of values from 0 to 1."""

STATISTICS = {
    "imagenet": (MEAN, STD),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation by channel of the images that networks were trained with, of values from 0 to 1."""


def _weight(b: Builder, name: str, shape: tuple[Any, ...], init: str, spectral: bool) -> Var:
    kind, args = INITS.get(init, (init, {}))
    args = args | ({"fan_in": product(shape[1:])} if init == "linear_default" else {})
    weight = b.param(f"{name}.weight", f32(*shape), kind, **args)
    if not spectral:
        return weight
    u = b.param(f"{name}.u", f32(shape[0]), "normal", "state")
    return b.spectral_norm(weight, u, eps=EPS, out="w")


def _bias(b: Builder, name: str, weight: Var, init: str, bias: bool) -> list[Var]:
    """A bias of zeros, or as torch.nn starts it if the weight is so too."""
    if not bias:
        return []
    args: dict[str, Any] = {"fan_in": product(weight.shape[1:])} if init == "linear_default" else {}
    return [b.param(f"{name}.bias", f32(weight.shape[0]), init if args else "zeros", **args)]


def linear(
    b: Builder, name: str, x: Var, features: Any, init: str, bias: bool = True, spectral: bool = False, out: str = ""
) -> Var:
    """x [..., in] -> [..., features]."""
    if not spectral:
        kind, args = INITS.get(init, (init, {}))
        return b.dense(name, x, features, bias, kind, out, **args)
    weight = _weight(b, name, (features, x.shape[-1]), init, spectral)
    return b.linear(x, weight, *_bias(b, name, weight, init, bias), out=out)


def linear_params(
    b: Builder, name: str, width: Any, features: Any, init: str, spectral: bool = False
) -> tuple[Var, Var]:
    """The weight f32[features, width] and the bias of a linear layer, for layers that read them apart."""
    weight = _weight(b, name, (features, width), init, spectral)
    return weight, _bias(b, name, weight, init, bias=True)[0]


def mp_linear(b: Builder, name: str, x: Var, features: Any, out: str = "", size: Any = None) -> Var:
    """x [..., size] -> [..., features] without bias, by a weight of unit rows, which preserves magnitudes.

    `size` may give a name to the last axis of x. Karras et al. 2024, arXiv:2312.02696, equation 47.
    """
    weight = b.param(f"{name}.weight", f32(features, x.shape[-1] if size is None else size), "normal")
    return b.linear(x, b.forced_norm(weight, eps=MP_EPS, out="w"), out=out)


def conv(
    b: Builder,
    name: str,
    x: Var,
    channels: Any,
    kernel: int,
    init: str,
    bias: bool = True,
    spectral: bool = False,
    dilation: int | None = None,
    stride: int | None = None,
    padded: bool = True,
    out: str = "",
) -> Var:
    """A convolution of x [B, C, *space] with an odd `kernel` along each axis: [B, channels, *space].

    A `stride` divides the space, also of an even kernel. Unless it is `padded`, the space shrinks by `kernel` - 1.
    """
    weight = _weight(b, name, (channels, x.shape[1], *(kernel,) * (x.type.rank - 2)), init, spectral)
    ins = [x, weight, *_bias(b, name, weight, init, bias)]
    if not padded:
        return b.conv(*ins, out=out)
    if stride is not None:
        return b.conv(*ins, stride=stride, padding=(kernel - 1) // 2, out=out)
    if dilation is None:
        return b.conv(*ins, padding=kernel // 2, out=out)
    return b.conv(*ins, padding=dilation * (kernel // 2), dilation=dilation, out=out)


def patch_conv(b: Builder, name: str, x: Var, channels: Any, patch: int, init: str, bias: bool = True) -> Var:
    """Each P x P patch of x [B, C, H, W] embedded by a linear map: [B, channels, H / P, W / P]."""
    kind, args = INITS.get(init, (init, {}))
    fan_in = {"fan_in": x.shape[1] * patch**2} if init == "linear_default" else {}
    weight = b.param(f"{name}.weight", f32(channels, x.shape[1], patch, patch), kind, **args, **fan_in)
    biases = [b.param(f"{name}.bias", f32(channels), kind if fan_in else "zeros", **fan_in)] if bias else []
    return b.conv(x, weight, *biases, stride=patch, out="x")


def depthwise(b: Builder, name: str, x: Var, kernel: int, init: str, out: str = "") -> Var:
    """A convolution of each channel of x [B, C, *space] by itself, with an odd `kernel` along each axis."""
    channels = x.shape[1]
    weight = _weight(b, name, (channels, 1, *(kernel,) * (x.type.rank - 2)), init, False)
    bias = _bias(b, name, weight, init, True)
    return b.conv(x, weight, *bias, padding=kernel // 2, groups=channels, out=out)


def embedding(
    b: Builder, name: str, index: Var, rows: Any, features: Any, init: str, spectral: bool = False, out: str = ""
) -> Var:
    """Row `index` i64[B] of a table of `rows`: f32[B, features]."""
    return b.embedding(_weight(b, name, (rows, features), init, spectral), index, out=out)


def batch_norm(
    b: Builder, name: str, x: Var, affine: bool, eps: float, momentum: float = 0.1, out: str = "", size: Any = None
) -> Var:
    """x [B, C] or [B, C, H, W] normalised by channel: by running statistics, in training by those of the batch.

    Ioffe and Szegedy 2015. `affine` scales and shifts each channel by learned values. `size` may give a name to C.
    """
    size = f32(x.shape[1] if size is None else size)
    ins = [
        x,
        b.param(f"{name}.running_mean", size, "zeros", "state"),
        b.param(f"{name}.running_var", size, "ones", "state"),
    ]
    if affine:
        ins += [b.param(f"{name}.weight", size, "ones"), b.param(f"{name}.bias", size, "zeros")]
    return b.batch_norm(*ins, eps=eps, momentum=momentum, out=out)


def halving_conv(b: Builder, name: str, x: Var, channels: Any, init: str, bias: bool = True, out: str = "") -> Var:
    """A 3 x 3 convolution of stride 2 that pads below and on the right: x [B, C, H, W] -> [B, channels, H/2, W/2]."""
    for axis in (2, 3):
        x = b.pad(x, axis=axis, before=0, after=1, value=0.0, out="padded")
    weight = _weight(b, name, (channels, x.shape[1], 3, 3), init, False)
    return b.conv(x, weight, *_bias(b, name, weight, init, bias), stride=2, out=out)


def group_norm(b: Builder, name: str, x: Var, groups: int, eps: float, out: str = "") -> Var:
    """x [B, C, H, W] normalised over groups of channels, then scaled and shifted by channel."""
    size = f32(x.shape[1])
    weight, bias = b.param(f"{name}.weight", size, "ones"), b.param(f"{name}.bias", size, "zeros")
    return b.group_norm(x, weight, bias, groups=groups, eps=eps, out=out)


def standardised(b: Builder, x: Var) -> Var:
    """Images f32[B, 3, H, W] in [-1, 1] less ImageNet's mean, over its deviation, channel by channel."""
    return normalised(b, x, MEAN, STD)


def normalised(b: Builder, x: Var, mean: tuple[float, ...], std: tuple[float, ...]) -> Var:
    """Images f32[B, C, H, W] in [-1, 1] less a mean, over a deviation, channel by channel; both of values in [0, 1]."""
    scale = b.constant([[[0.5 / s]] for s in std], out="scale")
    shift = b.constant([[[(0.5 - m) / s]] for m, s in zip(mean, std, strict=True)], out="shift")
    return b.add(b.mul(x, scale, out="x"), shift, out="x")
