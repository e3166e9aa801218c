"""A Llama that sees all tokens and predicts masked ones: LLaDA's network.

Not bert: positions are rotary, logits have a table of their own, and the mask may be a token of the vocabulary.

Symbols: B batch, T tokens of a sample, n tokens of conditions, V vocabulary, D width.
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
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class MaskedLlama(TokenBlocks):
    """Predicts every token of a partly masked text by a Llama without a causal mask (LLaDA, Nie et al. 2025,
    arXiv:2502.09992).

    `forward`: idx i64[B, T] with `mask` for masked tokens, the conditions, which are tokens in front -> logits
    f32[B, T, V].
    """

    kind: Literal["masked_llama"]
    base: float = Field(500_000.0, gt=1, description="ratio of the longest to the shortest wavelength of positions")
    mask: int | None = Field(
        None, ge=0, le=16_777_215, description="the token of the vocabulary that is the mask; null: one after them"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_llama",
        "width": 16,
        "depth": 1,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "bias": False, "rotary_halves": True},
            "feed_forward": {"kind": "swiglu", "hidden": 24},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_tokens", "unmask_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use a patch_transformer")
        elif self.mask is not None and self.mask >= tokens.vocabulary:
            message = f"token {self.mask} is out of range: there are tokens 0 to {tokens.vocabulary - 1}"
            yield Problem(("mask",), message, "use one of these, or null")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, base=self._positions)
        if self.block.parts()[0].ordered:
            message = f"a {self.kind} sees all tokens, so its mixer must not be causal"
            yield Problem(("block", "mixer"), message, "set `causal: false`")
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    @property
    def _positions(self) -> Rope1d:
        return Rope1d(kind="rope_1d", base=self.base)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        entries, vocabulary = self.entries(spec), tokens.vocabulary
        inside = self.mask is not None
        static: dict[str, Any] = {
            "vocabulary": vocabulary,
            "length": tokens.length,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }
        null = vocabulary if self.mask is None else self.mask
        idx = Port("idx", i64(B, Named(tokens.length, "T")), "state", vocabulary + (not inside), null)
        body = _network(self, self._positions, entries)
        method = add_method(mb, name, "forward", body, (idx, *ports_of(entries)), static, ("logits",))
        method = replace(method, outputs=(replace(method.outputs[0], values=vocabulary),))
        heads = self.block.heads(static)
        keys = self.width // heads * static.get("kv_heads", heads)
        return Network(name, {"forward": method}, self.PROVIDES, sizes={"queries": self.width, "keys": keys})


@cache
def _network(config: MaskedLlama, positions: Rope1d, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("MaskedLlama", idx="B length")
    def forward(
        b: Builder, idx: Var, *others: Var, vocabulary: int, length: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Logits of every token from those that are not masked."""
        rows = vocabulary if config.mask is not None else vocabulary + 1
        x = b.embedding(b.param("tok_emb.weight", f32(rows, width), "normal", std=0.02), idx, out="x")
        pairs = with_operands(entries, others)
        front = [entry.tokens(b, entry.prefix, own, width, static)[0] for entry, own in pairs]
        x = b.concat(*front, x, axis=1, out="x") if front else x
        before = sum(int(each.shape[1]) for each in front)
        rotary = positions.rotary(b, width // config.block.heads(static), 0, before + length)
        sizes = config.block.own(width, static)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *rotary, dim=width, **sizes)
        x = norm.apply(b, "norm", x)
        x = b.slice(x, axis=1, start=before, stop=before + length, out="x") if before else x
        return dense(b, "head", x, vocabulary, False, config.weights, out="logits")

    return forward
