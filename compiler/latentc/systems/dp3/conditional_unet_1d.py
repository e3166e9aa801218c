"""The 1-D U-Net of Diffusion Policy and DP3: residual blocks over a sequence, modulated by the conditions (FiLM).

It shares no block with the U-Nets over images: those normalise before each convolution and add or modulate by the
time; here a block is convolution, group norm, Mish, and what is modulated is its first half.
Symbols: B batch, T steps, D dimensions of a step, C channels, G size of the condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

FINAL_GROUPS = 8  # of the last group norm, whatever `groups` is


class ConditionalUnet1d(Backbone):
    """Conditional 1-D U-Net (Diffusion Policy, Chi et al. 2023, arXiv:2303.04137; DP3, Ze et al. 2024).

    Takes x f32[B, T, D], t f32[B] and its conditions; returns f32[B, T, D]. Arrays f32[B, G] are concatenated to the
    time embedding as they are; other conditions are embedded first.
    """

    kind: Literal["conditional_unet_1d"]
    widths: tuple[Size, ...] = Field(
        min_length=2, max_length=16, description="channels of each level; each level halves the sequence"
    )
    time_width: int = Field(128, gt=2, le=65_536, multiple_of=2, description="width of the time embedding")
    kernel: Literal[1, 3, 5, 7, 9] = Field(5, description="kernel size of the convolutions")
    groups: int = Field(8, gt=0, le=1_024, description="groups of the group norms")
    blocks: int = Field(2, ge=1, le=16, description="residual blocks per level and in the middle (Simple DP3: 1)")
    modulation: Literal["film", "add", "mlp_film"] = Field(
        "film",
        description="how conditions modulate: scale and shift, shift only, or scale and shift through two linear "
        "layers",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "conditional_unet_1d",
        "widths": [16, 24],
        "time_width": 8,
        "kernel": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        shape = spec.data.shape
        if shape is None or len(shape) != 2:
            message = f"a conditional_unet_1d takes sequences [steps, dimensions], but the data has {spec.data.words}"
            yield Problem((), message)
            return
        yield from self.problems_of_variance(spec)
        most = 2 ** (len(self.widths) - 1)
        if shape[0] % most:
            message = (
                f"samples are sequences [steps, dimensions] = {list(shape)}, and {shape[0]} steps cannot be halved "
            )
            help = f"use fewer levels, or a multiple of {most} steps, which are the first axis"
            yield Problem(("widths",), f"{message}{len(self.widths) - 1} times", help)
        for i, width in enumerate(self.widths):
            if width % self.groups:
                yield Problem(("widths", i), f"{width} channels do not divide into {self.groups} groups")
        if self.widths[0] % FINAL_GROUPS:
            yield Problem(("widths", 0), f"{self.widths[0]} channels do not divide into {FINAL_GROUPS} groups")
        for name, condition in self.takes(spec).items():
            rank = [port.type.rank for port in condition.ports(name, spec)][:1]
            if self.form_of(condition) == "array" and rank and rank != [2]:
                yield Problem(("conditions",), f"condition `{name}` is not a vector", "encode or flatten it")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        steps, dimensions = spec.data.shape
        entries = self.entries(spec)
        given = [int(e.ports[0].type.shape[1]) for e in entries if e.form == "array"]  # type: ignore[arg-type]
        embedded = self.time_width * (1 + len(entries) - len(given))
        static: dict[str, Any] = {
            "dimensions": dimensions,
            "time_width": self.time_width,
            "condition": embedded + sum(given),
            **self.condition_sizes(spec),
        }
        ports = (Port("x", f32(B, steps, dimensions), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: ConditionalUnet1d, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    block = _residual_block(config)
    sizes = {"kernel": config.kernel, "groups": config.groups}

    @module_class("ConditionalUnet1d", x="B T dimensions")
    def forward(
        b: Builder, x: Var, t: Var, *conditions: Var, dimensions: int, time_width: int, condition: int, **static: Any
    ) -> Var:
        """Predicts from noisy sequences x at time t, given the conditions."""
        parts = [time.vector(b, "time_embedder", t, time_width)]
        for entry, operands in with_operands(entries, conditions):
            array = entry.form == "array"
            parts.append(operands[0] if array else entry.vector(b, entry.prefix, operands, time_width, static))
        c = b.concat(*parts, axis=1, out="c") if len(parts) > 1 else parts[0]
        x = b.transpose(x, perm=(0, 2, 1), out="x")

        def blocks(name: str, x: Var, features: int) -> Var:
            for j in range(config.blocks):
                sized = {"channels": x.shape[1], "condition": condition, "features": features, **sizes}
                x = b.sub(f"{name}.{j}", block, x, c, **sized)
            return x

        skips: list[Var] = []
        for i, width in enumerate(config.widths):
            x = blocks(f"down.{i}", x, width)
            skips.append(x)
            if i + 1 < len(config.widths):
                x = _resampled(b, f"downsample.{i}", x, "conv")
        x = blocks("mid", x, config.widths[-1])
        for i, width in enumerate(reversed(config.widths[:-1])):
            x = blocks(f"up.{i}", b.concat(x, skips.pop(), axis=1, out="x"), width)
            x = _resampled(b, f"upsample.{i}", x, "conv_transpose")
        first = config.widths[0]
        x = b.sub("final", _conv_block, x, channels=first, features=first, kernel=config.kernel, groups=FINAL_GROUPS)
        x = layers.conv(b, "output_projection", x, dimensions, 1, "linear_default", out="x")
        return b.transpose(x, perm=(0, 2, 1))

    return forward


def _resampled(b: Builder, name: str, x: Var, op: Literal["conv", "conv_transpose"]) -> Var:
    """Halves (Conv1d(C, C, 3, stride=2)) or doubles (ConvTranspose1d(C, C, 4, stride=2)) the sequence."""
    channels, kernel = x.shape[1], 3 if op == "conv" else 4
    weight = b.param(f"{name}.weight", f32(channels, channels, kernel), "linear_default", fan_in=channels * kernel)
    bias = b.param(f"{name}.bias", f32(channels), "linear_default", fan_in=channels * kernel)
    return b.op(op, x, weight, bias, stride=2, padding=1, out="x")


@module_class("ConvBlock", x="B channels T")
def _conv_block(b: Builder, x: Var, *, channels: int, features: int, kernel: int, groups: int) -> Var:
    """Convolution, group norm, Mish."""
    x = layers.conv(b, "conv", x, features, int(kernel), "linear_default", out="x")
    size = f32(features)
    scale, shift = b.param("norm.weight", size, "ones"), b.param("norm.bias", size, "zeros")
    return b.mish(b.group_norm(x, scale, shift, groups=groups, eps=1e-5, out="x"))


@cache
def _residual_block(config: ConditionalUnet1d) -> BlockBody:
    @module_class("ConditionalResidualBlock", x="B channels T", c="B condition")
    def forward(
        b: Builder, x: Var, c: Var, *, channels: int, condition: int, features: int, kernel: int, groups: int
    ) -> Var:
        """Two convolution blocks with a shortcut; the condition c modulates the first one's output."""
        sizes = {"features": features, "kernel": kernel, "groups": groups}
        h = b.sub("block1", _conv_block, x, channels=channels, out="h", **sizes)
        c = b.mish(c)
        if config.modulation == "mlp_film":
            c = b.mish(b.dense("cond_encoder.0", c, condition))
        name = "cond_encoder.1" if config.modulation == "mlp_film" else "cond_encoder"
        parts = 1 if config.modulation == "add" else 2
        c = b.reshape(b.dense(name, c, parts * features), shape=(c.shape[0], parts * features, 1), out="c")
        if config.modulation == "add":
            h = b.add(h, c, out="h")
        else:
            scale, shift = b.split(c, axis=1, sizes=(features, features), out="scale shift")
            h = b.add(scale * h, shift, out="h")
        h = b.sub("block2", _conv_block, h, channels=features, out="h", **sizes)
        if int(channels) != int(features):
            x = layers.conv(b, "residual_conv", x, features, 1, "linear_default", out="x")
        return b.add(h, x)

    return forward
