"""EEGWave: gated dilated convolutions over the signals of all electrodes.

Symbols: B batch, E electrodes, L length of the signals in samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, layers
from latentc.components.condition import Entry, Form, TimeEmbedding, TimeFeatures, with_operands
from latentc.components.contract import Network, Sizes
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, items, module_class
from latentc.systems.diffwave.diffwave import DilatedBackbone, gated
from latentc.systems.diffwave.step_table import step_table
from latentc.systems.eeg.step_features import StepFeatures


class Eegwave(DilatedBackbone):
    """EEGWave (Torma and Szegletes 2023; conditional: Klein et al. 2024, arXiv:2403.18486).

    Takes signals x f32[B, E, L], t f32[B] and any number of vectors, such as a class, a subject and a session; returns
    f32[B, E, L]. The first layer joins the electrodes. Time and conditions are embedded alike, by a row of a table and
    two linear layers, and are added to the input of every residual layer.
    """

    kind: Literal["eegwave"]
    width: int = Field(128, gt=0, le=65_536, description="residual channels")
    depth: int = Field(40, gt=0, le=512, description="number of residual layers")
    cycle: int = Field(
        7,
        gt=0,
        le=24,
        description="dilation cycle: the dilation doubles per layer and restarts at 1 after this many layers",
    )
    time_width: int = Field(512, gt=0, le=65_536, description="width of the embeddings of time and conditions")
    hidden: int = Field(512, gt=0, le=65_536, description="width of the hidden layer of these embeddings")
    vector_width: int = Field(128, gt=0, le=65_536, description="width of the conditions' tables")
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "eegwave", "width": 8, "depth": 3, "cycle": 2},
        **{"time_width": 16, "hidden": 12, "vector_width": 6},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.problems_of_time(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        return replace(super().build(mb, name, spec, out_channels), sizes=_table(spec.time))

    def further_sizes(self, spec: Spec, entries: tuple[Entry, ...]) -> dict[str, Any]:
        assert isinstance(spec.time, TimeFeatures)
        sizes = {"vector_width": self.vector_width} if entries else {}
        return {"hidden": self.hidden, **sizes}

    def body(self, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
        assert isinstance(time, TimeFeatures)
        return _network(time, entries)


def _table(time: Component | None) -> Sizes:
    """The table of the time as the authors' files hold it: `table` row by row, of `rows` and `features`; `tables` is 1.

    0 `tables` with another embedding.
    """
    if not isinstance(time, StepFeatures):
        return {"tables": 0, "rows": 0, "features": 0, "table": ()}
    table = step_table(time.levels, time.frequencies)
    return {"tables": 1, "rows": time.levels, "features": time.frequencies, "table": tuple(table.ravel().tolist())}


@cache
def _network(time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("EEGWave", x="B channels L")
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
        hidden: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy signals x at time t, given the conditions."""
        sizes = {"hidden": hidden, "dim": time_width}
        row = time.features(b, t, **time.static())
        cond = [b.sub("t_embedder", _embedder, row, out="t", features=row.shape[1], **sizes)]
        for entry, operands in with_operands(entries, conditions):
            name = entry.ports[0].name
            row = entry.vector(b, f"{name}_table", operands, static["vector_width"], static)
            cond.append(b.sub(entry.prefix, _embedder, row, out=name, features=static["vector_width"], **sizes))
        x = b.relu(layers.conv(b, "input_projection", x, width, 1, "linear_default"), out="x")
        skips = b.mul(x, 0.0, out="skips")
        layer = _layer(("t", *(entry.ports[0].name for entry in entries)))
        for name in items("residual_layers", depth):
            dilation = 2 ** (name.i % cycle)
            x, skip = b.sub(name, layer, x, *cond, out="x skip", width=width, time_width=time_width, dilation=dilation)
            skips = b.add(skips, skip, out="skips")
        x = layers.conv(b, "skip_projection", skips / math.sqrt(depth), width, 1, "linear_default", out="x")
        return layers.conv(b, "output_projection", b.relu(x, out="x"), channels, 1, "linear_default")

    return forward


@module_class("Embedder")
def _embedder(b: Builder, x: Var, *, features: int, hidden: int, dim: int) -> Var:
    """Embeds features of the time, or a row of a condition's table: two linear layers with SiLU."""
    h = b.silu(b.dense("fc1", x, hidden), out="h")
    return b.silu(b.dense("fc2", h, dim))


@cache
def _layer(names: tuple[str, ...]) -> BlockBody:
    @module_class("ResidualLayer", x="B width L")
    def forward(b: Builder, x: Var, *cond: Var, width: int, time_width: int, dilation: int) -> Any:
        """A gated dilated convolution of x [B, C, L]: the next layer's input, and what is skipped to the output."""
        batch, h = x.shape[0], x
        for name, condition in zip(names, cond, strict=True):
            added = b.dense(f"{name}_projection", condition, width, out=name)
            h = b.add(h, b.reshape(added, shape=(batch, width, 1), out=name), out="h")
        h = layers.conv(b, "dilated_conv", h, 2 * width, 3, "linear_default", dilation=dilation, out="h")
        h = layers.conv(b, "output_projection", gated(b, h, width), 2 * width, 1, "linear_default", out="h")
        skip, residual = b.split(h, axis=1, sizes=(width, width), out="skip residual")
        return (x + residual) / math.sqrt(2), skip

    return forward
