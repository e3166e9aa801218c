"""DiffWave: gated dilated convolutions over a waveform.

Symbols: B batch, L length of the waveform in samples, M mel bands, F mel frames.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

SLOPE = 0.4  # of the leaky ReLUs in the upsampler
Even = Annotated[int, Field(gt=0, le=65_536, multiple_of=2)]


class DilatedBackbone(Backbone):
    """Residual layers of gated dilated convolutions over time, whose skip outputs are summed: DiffWave and its heirs.

    Takes x f32[B, C, L], t f32[B] and its conditions; returns f32[B, C, L].
    """

    width: int = Field(64, gt=0, le=65_536, description="residual channels")
    depth: int = Field(30, gt=0, le=512, description="number of residual layers")
    cycle: int = Field(
        10,
        gt=0,
        le=24,
        description="dilation cycle: the dilation doubles per layer and restarts at 1 after this many layers",
    )
    time_width: int = Field(512, gt=0, le=65_536, description="width of the time embedding")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        shape = spec.data.shape
        if shape is None or len(shape) != 2:
            yield Problem((), f"a {self.kind} takes waveforms [channels, time], but the data has {spec.data.words}")
            return
        yield from self.problems_of_variance(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, length = spec.data.shape
        entries = self.entries(spec)
        static: dict[str, Any] = {
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "cycle": self.cycle,
            "time_width": self.time_width,
            **self.condition_sizes(spec),
            **self.further_sizes(spec, entries),
        }
        ports = (Port("x", f32(B, channels, length), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", self.body(spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)

    @abstractmethod
    def further_sizes(self, spec: Spec, entries: tuple[Entry, ...]) -> dict[str, Any]:
        """Static arguments of `body` beside those of this class and of the conditions."""

    @abstractmethod
    def body(self, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
        """The network's forward pass: (x, t, *operands of the conditions) -> f32[B, C, L]."""


class Diffwave(DilatedBackbone):
    """DiffWave (Kong et al. 2021, arXiv:2009.09761): residual layers of gated dilated convolutions.

    Takes x f32[B, C, L], t f32[B] and its conditions; returns f32[B, C, L]. An array f32[B, M, F], such as a mel
    spectrogram, is upsampled to the waveform and enters every layer; vectors (a class, a speaker) are added in every
    layer. Without conditions it is the unconditional model.
    """

    kind: Literal["diffwave"]
    vector_width: int = Field(128, gt=0, le=65_536, description="width of the embeddings of vectors and classes")
    upsampling: tuple[Even, ...] = Field(
        (16, 16), min_length=1, description="factors by which frames are upsampled; their product is the hop size"
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "diffwave", "width": 8, "depth": 3, "cycle": 2, "time_width": 16}

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsampling)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        shape = spec.data.shape
        if shape is None or len(shape) != 2:
            return
        arrays = [name for name, condition in self.takes(spec).items() if self.form_of(condition) == "array"]
        if len(arrays) > 1:
            message = f"a diffwave takes only one array, but conditions {' and '.join(arrays)} are arrays"
            yield Problem(("conditions",), message, "list only the one that it takes in `conditions`")
        for name in arrays:
            given = [int(d) for port in self.takes(spec)[name].ports(name, spec) for d in port.type.shape[1:]]  # type: ignore[arg-type]
            if len(given) != 2 or given[1] * self.hop != shape[1]:
                message = f"condition `{name}` has shape {given}, but a waveform of {shape[1]} samples needs "
                message += f"[bands, {shape[1] / self.hop:g}]: one frame per {self.hop} samples"
                yield Problem(("upsampling",), message, "change the length of the waveform or of the condition")

    def further_sizes(self, spec: Spec, entries: tuple[Entry, ...]) -> dict[str, Any]:
        static: dict[str, Any] = {}
        for entry in entries:
            if entry.form == "array":
                static |= {"bands": int(entry.ports[0].type.shape[1])}  # type: ignore[arg-type]
            else:
                static |= {"vector_width": self.vector_width}
        return static

    def body(self, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
        return _network(self, time, entries)


@cache
def _network(config: Diffwave, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    arrays = {entry.ports[0].name: "B bands F" for entry in entries if entry.form == "array"}

    @module_class("DiffWave", x="B channels L", **arrays)
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        depth: int,
        cycle: int,
        time_width: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        cond: list[Var] = []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "array":
                cond.append(b.sub("spectrogram_upsampler", _upsampler(config.upsampling), *operands))
            else:
                cond.append(entry.vector(b, entry.prefix, operands, static["vector_width"], static))
        x = b.relu(layers.conv(b, "input_projection", x, width, 1, "kaiming_normal"), out="x")
        step = time.vector(b, "diffusion_embedding", t, time_width)
        skips = b.mul(x, 0.0, out="skips")
        layer = _layer(tuple(entry.form for entry in entries), tuple(entry.ports[0].name for entry in entries))
        sizes = {"width": width, "time_width": time_width}
        sizes |= {key: static[key] for key in ("bands", "vector_width") if key in static}
        for name in items("residual_layers", depth):
            dilation = 2 ** (name.i % cycle)
            x, skip = b.sub(name, layer, x, step, *cond, out="x skip", **sizes, dilation=dilation)
            skips = b.add(skips, skip, out="skips")
        x = layers.conv(b, "skip_projection", skips / math.sqrt(depth), width, 1, "kaiming_normal", out="x")
        return layers.conv(b, "output_projection", b.relu(x, out="x"), channels, 1, "zeros")

    return forward


def gated(b: Builder, h: Var, width: Any) -> Var:
    """The tanh of the second half of the channels of h [B, 2 * width, L], gated by the sigmoid of the first."""
    gate, filtered = b.split(h, axis=1, sizes=(width, width), out="gate filtered")
    return b.mul(b.sigmoid(gate), b.tanh(filtered), out="h")


@cache
def _upsampler(factors: tuple[int, ...]) -> BlockBody:
    @module_class("SpectrogramUpsampler", mel="B M F")
    def forward(b: Builder, mel: Var) -> Var:
        """Upsamples frames [B, M, F] to the rate of the waveform: [B, M, L]."""
        x = b.reshape(mel, shape=(mel.shape[0], 1, *mel.shape[1:]), out="x")
        for i, factor in enumerate(factors, start=1):
            weight = b.param(f"conv{i}.weight", f32(1, 1, 3, 2 * factor), "linear_default", fan_in=6 * factor)
            bias = b.param(f"conv{i}.bias", f32(1), "linear_default", fan_in=6 * factor)
            x = b.conv_transpose(x, weight, bias, stride=(1, factor), padding=(1, factor // 2), out="x")
            x = b.leaky_relu(x, slope=SLOPE, out="x")
        return b.reshape(x, shape=(x.shape[0], *x.shape[2:]))

    return forward


@cache
def _layer(forms: tuple[Form, ...], names: tuple[str, ...]) -> BlockBody:
    @module_class("ResidualLayer", x="B width L")
    def forward(
        b: Builder, x: Var, step: Var, *cond: Var, width: int, time_width: int, dilation: int, **static: Any
    ) -> Any:
        """A gated dilated convolution of x [B, C, L]: the next layer's input, and what is skipped to the output."""
        batch = x.shape[0]
        h = b.dense("diffusion_projection", step, width, out="h")
        h = b.add(x, b.reshape(h, shape=(batch, width, 1)), out="h")
        h = layers.conv(b, "dilated_conv", h, 2 * width, 3, "kaiming_normal", dilation=dilation, out="h")
        for form, name, condition in zip(forms, names, cond, strict=True):
            if form == "array":
                local = layers.conv(b, "conditioner_projection", condition, 2 * width, 1, "kaiming_normal", out=name)
            else:
                local = b.dense(f"{name}_projection", condition, 2 * width, out=name)
                local = b.reshape(local, shape=(batch, 2 * width, 1), out=name)
            h = b.add(h, local, out="h")
        h = gated(b, h, width)
        h = layers.conv(b, "output_projection", h, 2 * width, 1, "kaiming_normal", out="h")
        residual, skip = b.split(h, axis=1, sizes=(width, width), out="residual skip")
        return (x + residual) / math.sqrt(2), skip

    return forward
