"""MaskGen's network: Stable Diffusion 3's blocks over partly masked tokens.

Symbols: B batch, T tokens of a sample, V vocabulary, D width, L tokens of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition, Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, Named
from latentc.systems.maskgen.sinusoidal_score import SinusoidalScore
from latentc.systems.maskgen.text_and_pooled import TextAndPooled
from latentc.systems.sd3.mmdit import joint_blocks
from latentc.systems.sd3.two_streams import modulated, modulation


class MaskedMmdit(Backbone):
    """MM-DiT over the tokens of a partly masked sequence (MaskGen, Kim et al. 2025, arXiv:2501.07730).

    idx i64[B, T] with its null for masked tokens, and the conditions -> logits f32[B, T, V]: products with the table of
    tokens. A text_and_pooled is the second stream; its vector, with the sinusoids of scores beside it, modulates the
    blocks, together with other vectors.
    """

    kind: Literal["masked_mmdit"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=1, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="heads of each attention")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of feed-forwards as a multiple of the width")
    spare_rows: int = Field(
        0, ge=0, le=1_000_000, description="rows of the table after the mask that nothing uses (1001 in the authors')"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"masked_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_mmdit", "width": 16, "depth": 2, "heads": 2}

    def form_of(self, condition: Condition) -> Form | None:
        return "tokens" if isinstance(condition, TextAndPooled) else super().form_of(condition)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            message = f"a masked_mmdit takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use an mmdit")
        if self.width % self.heads:
            yield Problem(("heads",), f"{self.heads} heads do not divide a width of {self.width}")
        yield from self.problems_of_conditions(spec)
        if sum(isinstance(one, TextAndPooled) for one in self.takes(spec).values()) != 1:
            message = "a masked_mmdit takes one text_and_pooled, which is its second stream"
            yield Problem((), message, "add `conditioning.caption: {kind: text_and_pooled}`, or use a bert")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens, entries = spec.data.tokens, self.entries(spec)
        assert tokens is not None
        static = {
            "vocabulary": tokens.vocabulary,
            "tokens": tokens.length,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "hidden": self.ratio * self.width,
            **({"spare": self.spare_rows} if self.spare_rows else {}),
            **self.condition_sizes(spec),
        }
        idx = Port("idx", i64(B, Named(tokens.length, "T")), "state", tokens.vocabulary + 1, tokens.vocabulary)
        ports = (idx, *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(entries), ports, static, ("logits",))
        forward = replace(forward, outputs=(replace(forward.outputs[0], values=tokens.vocabulary),))
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("MaskedMMDiT", idx="B T=tokens")
    def forward(b: Builder, idx: Var, *conditions: Var, vocabulary: int, tokens: int, width: int, **static: Any) -> Var:
        """Predicts the tokens of a partly masked sequence, given a text."""
        table = b.param("tok_emb.weight", f32(vocabulary + 1 + static.get("spare", 0), width), "normal", std=0.02)
        x = b.add(b.embedding(table, idx), b.param("pos_embed", f32(1, tokens, width), "normal", std=0.02), out="x")
        pooled, vectors = list[Var](), list[Var]()
        y = None
        for entry, operands in with_operands(entries, conditions):
            if isinstance(entry.condition, TextAndPooled):
                y, _ = entry.tokens(b, entry.prefix, operands, width, static)
                pooled.insert(0, operands[1])
            elif isinstance(entry.condition, SinusoidalScore):
                pooled.append(entry.condition.features(b, operands[0], entry.name))
            else:
                vectors.append(entry.vector(b, entry.prefix, operands, width, static))
        assert y is not None
        joined = b.concat(*pooled, axis=1, out="pooled") if len(pooled) > 1 else pooled[0]
        c = summed(b, "c", [dense(b, "pooled_embedder", joined, width, True, "normal", out="c"), *vectors])
        x = joint_blocks(b, x, y, c, (), (), False, {"width": width, **static})
        shift, scale = modulation(b, "adaLN", c, width, "shift scale")
        x = modulated(b, x, shift, scale)
        return b.linear(x, b.slice(table, axis=0, start=0, stop=vocabulary, out="table"), out="logits")

    return forward
