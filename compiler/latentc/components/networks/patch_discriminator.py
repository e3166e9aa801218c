"""The PatchGAN discriminator: a score per patch of an image.

Not `resnet_discriminator`: strided convolutions without residual blocks, and no pooling. Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.frames import as_images
from latentc.components.networks._gan import with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

SIDE = 4
"""Side of every kernel."""


class PatchDiscriminator(Backbone):
    """Scores each patch of an image (Isola et al. 2016, arXiv:1611.07004), as in VQGAN.

    Takes x f32[B, C, H, W]; returns `score` f32[B, 1, h, w], or for video x f32[B, C, F, H, W] f32[B F, 1, h, w], frame
    by frame. Stride-2 convolutions, then two of stride 1, with leaky ReLU and norms between them.
    """

    kind: Literal["patch_discriminator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution")
    depth: int = Field(3, gt=0, le=12, description="number of stride-2 convolutions")
    norm: Literal["batch", "activation"] = Field(
        "batch",
        description="batch norm, or a learned shift and scale per channel initialised from the first batch (ActNorm, "
        "Kingma and Dhariwal 2018, arXiv:1807.03039), after convolutions with biases (`use_actnorm`)",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "patch_discriminator", "width": 8, "depth": 1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4):
            message = f"a patch_discriminator takes images [C, H, W] or video, but the data has {spec.data.words}"
            yield Problem((), message)
        elif min(shape[-2:]) // 2**self.depth < 3:
            message = f"after {self.depth} convolutions of stride 2 fewer than 3 of {min(shape[-2:])} pixels are left"
            yield Problem(("depth",), message, "use fewer")
        if self.norm == "activation" and spec.train.parallel == "fsdp":
            message = "activation norms are initialised from the whole first batch, but `fsdp` splits weights"
            yield Problem(("norm",), message, "set `train.parallel: ddp`, or use `norm: batch`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        static = {"channels": spec.data.shape[0], "width": self.width}
        body = _forward(self.depth, len(spec.data.shape) == 4, self.norm == "batch")
        forward = add_method(mb, name, "forward", body, [x], static)
        methods = with_averages(mb, name, spec, "PatchDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": self.depth})


@cache
def _forward(depth: int, video: bool, batch_norm: bool) -> BlockBody:
    @module_class("PatchDiscriminator", x="B channels F H W" if video else "B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, width: int) -> Var:
        """A score for each patch of images x [B, C, H, W], or of every frame."""
        h = b.leaky_relu(_conv(b, "convs.0", as_images(b, x), width, 2, True), slope=0.2, out="h")
        for i in range(1, depth + 1):
            h = _conv(b, f"convs.{i}", h, min(2**i, 8) * width, 2 if i < depth else 1, not batch_norm)
            if batch_norm:
                h = layers.batch_norm(b, f"norms.{i - 1}", h, True, 1e-5, out="h")
            else:
                h = b.sub(f"norms.{i - 1}", _activation_norm, h, channels=h.shape[1], out="h")
            h = b.leaky_relu(h, slope=0.2, out="h")
        return _conv(b, "score", h, 1, 1, True, out="score")

    return forward


@module_class("ActivationNorm", x="B channels H W")
def _activation_norm(b: Builder, x: Var, *, channels: int) -> Var:
    """Shifts and scales each channel; the first pass in training sets these so that means are 0 and variances 1."""
    mean = b.mean(x, axes=(0, 2, 3), keepdims=True, out="mean")
    centred = b.op("sub", x, mean, out="centred")
    # The authors' deviation is that of a sample: the sum is divided by one less than the number of pixels.
    count = b.sum(b.slice(centred, axis=1, start=0, stop=1) * 0.0 + 1.0, axes=(0, 2, 3), keepdims=True, out="count")
    total = b.sum(centred * centred, axes=(0, 2, 3), keepdims=True, out="total")
    deviation = b.sqrt(b.div(total, b.maximum(count - 1.0, 1.0)), out="deviation")
    passes = b.training_passes(b.param("passes", f32(1), "zeros", "state"), otherwise=1.0, out="passes")
    of = f32(1, channels, 1, 1)
    shift = b.set_from_data(b.param("shift", of, "zeros"), b.neg(mean), passes, out="shift")
    scale = b.set_from_data(b.param("scale", of, "ones"), b.div(1.0, deviation + 1e-6), passes, out="scale")
    return (x + shift) * scale


def _conv(b: Builder, name: str, x: Var, features: Any, stride: int, bias: bool, out: str = "h") -> Var:
    weight = b.param(f"{name}.weight", f32(features, x.shape[1], SIDE, SIDE), "normal", std=0.02)
    more = [b.param(f"{name}.bias", f32(features), "zeros")] if bias else []
    return b.conv(x, weight, *more, stride=stride, padding=1, out=out)
