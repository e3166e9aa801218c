"""A bidirectional transformer over partly masked tokens: MaskGIT and its kin.

Symbols: B batch, T tokens of a sample, V vocabulary (token V is the mask), D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, embedded_sum, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Norm, Positions, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class MaskedTransformer(TokenBlocks):
    """Predicts every token of a partly masked grid (MaskGIT, Chang et al. 2022, arXiv:2202.04200).

    `forward`: idx i64[B, T] with V for masked tokens, the conditions -> logits f32[B, T, V + 1]. Conditions modulate
    the blocks, and the output layer shares its weight with the token embedding, as in Halton-MaskGIT (Besnier et al.
    2025, arXiv:2503.17076).
    """

    kind: Literal["masked_transformer"]
    registers: int = Field(1, ge=0, le=65_536, description="learned tokens appended to the sequence")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="position encoding")
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_transformer",
        "width": 16,
        "depth": 2,
        "positions": {"kind": "learned"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a masked_transformer takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use a patch_transformer")
        elif len(grid := spec.data.tokens.grid) != 2 or grid[0] != grid[1]:
            sides = " by ".join(map(str, grid))
            yield Problem(
                (),
                f"a masked_transformer takes square grids of tokens, not {sides}",
                "use `kind: bert` for sequences and other grids",
            )
        yield from self.block.problems_of_width(self.width)
        if self.block.parts()[0].ordered:
            message = "a masked_transformer sees all tokens, so its mixer must not be causal"
            yield Problem(("block", "mixer"), message, "set `causal: false`")
        yield from self.block.problems_of_condition(self.kind, "a vector")
        if isinstance(self.positions, Positions) and self.positions.ROTARY:
            message = f"{self.positions.kind} has no positions for the registers"
            yield Problem(("positions",), message, "use `{kind: learned}` or `{kind: sincos_2d}`")
        if not self.takes(spec):
            yield Problem((), "a masked_transformer needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        static: dict[str, Any] = {
            "vocabulary": tokens.vocabulary,
            "grid": tokens.grid[0],
            "width": self.width,
            "depth": self.depth,
            "registers": self.registers,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        entries = self.entries(spec)
        idx = Port("idx", i64(B, Named(tokens.length, "T")), "state", tokens.vocabulary + 1, tokens.vocabulary)
        forward = add_method(
            mb, name, "forward", _network(self, entries), (idx, *ports_of(entries)), static, ("logits",)
        )
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: MaskedTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    positions = config.positions
    assert isinstance(positions, Positions)
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("MaskedTransformer", idx="B T=grid**2")
    def forward(
        b: Builder,
        idx: Var,
        *conditions: Var,
        vocabulary: int,
        grid: int,
        width: int,
        depth: int,
        registers: int,
        **static: Any,
    ) -> Var:
        """Logits of every token from those that are not masked."""
        tokens = Named(grid**2, "T")
        table = b.param("tok_emb.weight", f32(vocabulary + 1, width), "normal", std=0.02)
        x = positions.add(b, b.embedding(table, idx, out="x"), width, grid)
        if registers:
            extra = b.param("registers", f32(1, registers, width), "normal", std=0.02)
            extra = b.broadcast_to(extra, x, shape=(x.shape[0], registers, width), out="extra")
            x = b.concat(x, extra, axis=1, out="x")
        c = embedded_sum(b, entries, conditions, width, static)
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, c, dim=width, **sizes)
        if registers:
            x = b.slice(x, axis=1, start=0, stop=tokens, out="x")
        x = b.sub("last_norm", _last_norm(norm, config.weights), x, c, dim=width)
        bias = b.param("head_bias", f32(vocabulary + 1), "zeros")
        return b.linear(x, table, bias, out="logits")

    return forward


@cache
def _last_norm(norm: Norm, init: Weights) -> BlockBody:
    @module_class("LastNorm")
    def last_norm(b: Builder, x: Var, c: Var, *, dim: int) -> Var:
        """Normalises the tokens, then scales and shifts them by the condition."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, init, out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * dim), out="modulation")
        shift, scale = b.split(modulation, axis=2, sizes=(dim, dim), out="shift scale")
        x = norm.apply(b, "norm", x) + b.param("norm_bias", f32(dim), "zeros")
        return x * (scale + 1.0) + shift

    return last_norm
