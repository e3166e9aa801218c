"""A DiT over a sequence of tokens: MDLM's network, which SEDD introduced.

Symbols: B batch, T tokens of a sample, V vocabulary (token V is the mask), D width, E width of the condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.positions.rope_1d import Rope1d
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Method, Network, Port
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import BlockCondition, Norm, Problem, Spec, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

POSITIONS = Rope1d(kind="rope_1d")


class SequenceDit(TokenBlocks):
    """Predicts every token of a partly masked sequence (MDLM, Sahoo et al. 2024, arXiv:2406.07524).

    `forward`: idx i64[B, T] with V for masked tokens, sigma f32[B] if `time` is `noise`, the conditions -> logits
    f32[B, T, V + 1]. The embedded time and conditions, added, modulate the blocks. Positions are rotary.
    """

    kind: Literal["sequence_dit"]
    condition_width: int = Field(
        128, gt=0, le=65_536, description="channels of the embedded time and conditions, which modulate the blocks (E)"
    )
    time: Literal["none", "noise"] = Field(
        "none",
        description="none: the time's embedding is that of 0; noise: it is that of sigma = -log of the probability "
        "that a token is not masked",
    )
    learned_positions: bool = Field(
        False,
        description="add a learned vector per position: rotary positions alone are relative, so that they tell tokens "
        "of a grid that is all masked nothing of their place",
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "sequence_dit",
        "width": 16,
        "depth": 1,
        "condition_width": 8,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "bias": False, "rotary_halves": True},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm", "affine": True, "bias": False},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"unmask_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use a patch_transformer")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, block=POSITIONS)
        if self.block.parts()[0].ordered:
            message = f"a {self.kind} sees all tokens, so its mixer must not be causal"
            yield Problem(("block", "mixer"), message, "set `causal: false`")
        yield from self.block.problems_of_condition(self.kind, "a vector")
        yield from self.problems_of_conditions(spec)

    def states(self, vocabulary: int) -> int:
        """Number of values of a token in the state, with the mask if there is one."""
        return vocabulary + 1

    def ports(self, spec: Spec) -> tuple[Port, ...]:
        """The inputs of `forward`."""
        tokens = spec.data.tokens
        assert tokens is not None
        null = tokens.vocabulary if self.states(tokens.vocabulary) > tokens.vocabulary else None
        state = Port("idx", i64(B, Named(tokens.length, "T")), "state", self.states(tokens.vocabulary), null)
        time = (Port("sigma", f32(B), "time"),) if self.time == "noise" else ()
        return (state, *time, *ports_of(self.entries(spec)))

    def static(self, spec: Spec) -> dict[str, Any]:
        """The constructor arguments of the emitted class."""
        tokens = spec.data.tokens
        assert tokens is not None
        return {
            "states": self.states(tokens.vocabulary),
            "length": tokens.length,
            **self.block_sizes(),
            "condition_width": self.condition_width,
            **self.condition_sizes(spec),
        }

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        time, tokens = spec.time, spec.data.tokens
        assert isinstance(time, TimeEmbedding) and tokens is not None
        body = _network(self, time, self.entries(spec))
        method = add_method(mb, name, "forward", body, self.ports(spec), self.static(spec), ("logits",))
        return Network(name, {"forward": drawn_among(method, tokens.vocabulary)}, self.PROVIDES)


def drawn_among(method: Method, values: int) -> Method:
    """The method, of whose logits only the first `values` are drawn: tokens of the data, not the mask."""
    return replace(method, outputs=(replace(method.outputs[0], values=values), *method.outputs[1:]))


def conditioned(
    b: Builder,
    time: TimeEmbedding,
    sigma: Var | None,
    entries: tuple[Entry, ...],
    operands: tuple[Var, ...],
    idx: Var,
    width: Any,
    static: dict[str, Any],
) -> Var:
    """c f32[B, E]: the embedded time, 0 if there is none, and conditions, added."""
    if sigma is None:
        sigma = b.full(idx, shape=(), value=0.0, dtype="f32", out="sigma")
    embedded = [time.vector(b, "t_embedder", sigma, width)]
    pairs = with_operands(entries, operands)
    embedded += [entry.vector(b, entry.prefix, own, width, static) for entry, own in pairs]
    return summed(b, "c", embedded)


def embedded(b: Builder, config: SequenceDit, idx: Var, states: Any, length: Any, width: Any, copies: int = 1) -> Var:
    """The embedded tokens f32[B, copies T, D] of idx i64[B, copies T]; all copies have the same positions."""
    x = b.embedding(b.param("tok_emb.weight", f32(states, width), "normal", std=0.02), idx, out="x")
    if not config.learned_positions:
        return x
    places = b.param("pos_embed", f32(1, length, width), "normal", std=0.02)
    places = b.concat(*[places] * copies, axis=1, out="places") if copies > 1 else places
    return b.add(x, places, out="x")


@cache
def _network(config: SequenceDit, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = narrow(condition.block(mixer, feed_forward, norm, config.weights))

    @module_class("SequenceDiT", idx="B length")
    def forward(
        b: Builder,
        idx: Var,
        *others: Var,
        states: int,
        length: int,
        width: int,
        depth: int,
        condition_width: int,
        **static: Any,
    ) -> Var:
        """Logits of every token of the data, given a noisy sequence."""
        sigma, operands = (others[0], others[1:]) if config.time == "noise" else (None, others)
        c = conditioned(b, time, sigma, entries, operands, idx, condition_width, static)
        x = embedded(b, config, idx, states, length, width)
        rotary = POSITIONS.rotary(b, static.get("head_width", width // config.block.heads(static)), 0, length)
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, c, *rotary, dim=width, condition_width=condition_width, **sizes)
        sizes = {"dim": width, "condition_width": condition_width, "states": states}
        return b.sub("final_layer", final_layer(condition, norm), x, c, **sizes, out="logits")

    return forward


def narrow(block: BlockBody) -> BlockBody:
    """The block, whose condition c f32[B, E] is of another width than its tokens: its argument `condition_width`."""
    return BlockBody(block.body, block.cls, block.method, {"c": "B condition_width"}, block.names)


@cache
def final_layer(condition: BlockCondition, norm: Norm) -> BlockBody:
    """Tokens x f32[B, T, D] and the condition c f32[B, E] -> logits f32[B, T, `states`]."""

    @module_class("FinalLayer", c="B condition_width")
    def final(b: Builder, x: Var, c: Var, *, dim: int, condition_width: int, states: int) -> Var:
        """Normalises and modulates the tokens, then computes their logits."""
        shift, scale = condition.final_modulation(b, c, dim)
        x = norm.apply(b, "norm_final", x) * (scale + 1.0) + shift
        return dense(b, "linear", x, states, True, "zeros", out="logits")

    return final
