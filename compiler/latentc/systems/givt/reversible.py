"""Coupled convolutions that invert exactly: the adaptor between GIVT's autoencoder and its transformer.

A file of its own: `transformer_flow` maps samples to noise with a log-determinant, and this one leaves volumes as they
are, so that a likelihood of what it returns is one of what it is given.

Symbols: B batch, C channels, H and W sides, K channels of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Form
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import patchify, unpatchify
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class Reversible(Backbone):
    """Additive couplings between halves of the channels (i-RevNet, Jacobsen et al. 2018, arXiv:1802.07088).

    `forward` and `inverse`: x f32[B, C, H, W] -> f32[B, C, H, W], as in GIVT (arXiv:2312.02116).
    """

    kind: Literal["reversible"]
    blocks: int = Field(8, gt=0, le=512, description="number of couplings, which alternately change each half")
    bottleneck: int | None = Field(
        None,
        gt=1,
        le=65_536,
        multiple_of=2,
        description="twice the inner channels of a block; null: the channels of a patch",
    )
    patch: tuple[Annotated[int, Field(gt=0, le=64)], Annotated[int, Field(gt=0, le=64)]] = Field(
        (1, 1), description="rows and columns of the data that form one position"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after the second convolution of a block, in training")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"adapt"})
    TAKES: ClassVar[tuple[Form, ...]] = ()
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "reversible", "blocks": 2, "bottleneck": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} network takes arrays [C, H, W], but the data has {spec.data.words}")
            return
        if shape[1] % self.patch[0] or shape[2] % self.patch[1]:
            yield Problem(("patch",), f"patches of {list(self.patch)} do not tile {shape[1]} by {shape[2]}")
        channels = shape[0] * self.patch[0] * self.patch[1]
        if channels % 2:
            yield Problem((), f"the {channels} channels of a patch cannot be halved")
        elif (self.bottleneck or channels) // 2 % self.groups(channels):
            groups = self.groups(channels)
            message = f"half the bottleneck, {(self.bottleneck or channels) // 2}, does not divide into {groups} groups"
            yield Problem(("bottleneck",), message, f"use a multiple of {2 * groups}")

    @staticmethod
    def groups(channels: int) -> int:
        """Groups of the norms."""
        return min(32, channels // 2)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        methods = {
            method: add_method(mb, name, method, _whole(self, method == "inverse"), [x], {})
            for method in ("forward", "inverse")
        }
        return Network(name, methods, self.PROVIDES)


@cache
def _coupling(first: bool, groups: int, inside: int, dropout: float, inverse: bool) -> BlockBody:
    name = "FirstCoupling" if first else "Coupling"

    def change(b: Builder, x: Var) -> Var:
        half = x.shape[1]
        if not first:
            x = b.relu(layers.group_norm(b, "norms.0", x, groups, 1e-6), out="h")
        x = layers.conv(b, "convs.0", x, inside, 3, "xavier", bias=False)
        x = b.relu(layers.group_norm(b, "norms.1", x, groups, 1e-6), out="h")
        x = layers.conv(b, "convs.1", x, inside, 3, "xavier", bias=False)
        x = b.dropout(x, p=dropout) if dropout else x
        x = b.relu(layers.group_norm(b, "norms.2", x, groups, 1e-6), out="h")
        return layers.conv(b, "convs.2", x, half, 3, "xavier", bias=False, out="change")

    @module_class(name)
    def forward(b: Builder, x: Var, y: Var) -> tuple[Var, Var]:
        """Adds to one half of the channels what it makes of the other; the halves change places."""
        return y, b.add(x, change(b, y), out="x")

    @module_class(name, "inverse")
    def back(b: Builder, x: Var, y: Var) -> tuple[Var, Var]:
        """Takes away again what `forward` added."""
        return b.op("sub", y, change(b, x), out="x"), x

    return back if inverse else forward


@cache
def _whole(config: Reversible, inverse: bool) -> BlockBody:
    @module_class("Reversible", "inverse" if inverse else "forward")
    def whole(b: Builder, x: Var) -> Var:
        """All blocks one after the other, or their inverses in the opposite order."""
        channels, height, width = (int(n) for n in x.shape[1:])
        rows, columns = height // config.patch[0], width // config.patch[1]
        size = channels * config.patch[0] * config.patch[1]
        if config.patch != (1, 1):
            tokens = patchify(b, x, config.patch)
            x = unpatchify(b, tokens, (size, rows, columns), patch=1)
        first, second = b.split(x, axis=1, sizes=(size // 2, size // 2), out="first second")
        inside, groups = (config.bottleneck or size) // 2, config.groups(size)
        order = range(config.blocks)
        for i in reversed(order) if inverse else order:
            body = _coupling(i == 0, groups, inside, config.dropout, inverse)
            first, second = b.sub(f"blocks.{i}", body, first, second, out="first second")
        x = b.concat(first, second, axis=1, out="x")
        if config.patch != (1, 1):
            x = unpatchify(b, patchify(b, x, 1), (channels, height, width), patch=config.patch)
        return x

    return whole
