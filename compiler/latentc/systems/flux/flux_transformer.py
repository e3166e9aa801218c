"""The transformer of FLUX.1.

Symbols: B batch, C channels, D width, P patch side, T patches, L tokens of the text, N = L + T tokens of both, H heads,
d channels of a head, F hidden width of a feed-forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.heads import joined_heads
from latentc.components.kit.patches import unpatchify
from latentc.components.parts import Positions, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.systems.sd3.two_streams import (
    INIT,
    TwoStreams,
    fed,
    heads_of,
    joint_attention,
    modulated,
    modulation,
)

_ALL = "shift scale gate shift_mlp scale_mlp gate_mlp"


class FluxTransformer(TwoStreams):
    """Blocks of two streams, then blocks of one (FLUX.1, Black Forest Labs 2024).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Norms of queries and keys, head
    by head; rotary positions.
    """

    kind: Literal["flux_transformer"]
    single: int = Field(gt=0, le=512, description="number of blocks with one stream, after those with two")
    EMITTED: ClassVar[str] = "FluxTransformer"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "flux_transformer",
        "width": 16,
        "depth": 2,
        "single": 1,
        "heads": 2,
        "patch": 2,
        "positions": {"kind": "rope_axes", "axes": [2, 4, 2]},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("width", "heads")  # positions rotate the channels of a head by parts

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if isinstance(self.positions, Positions) and not self.positions.ROTARY:
            message = f"a {self.kind} has rotary positions, but `{self.positions.kind}` are added"
            yield Problem(("positions",), message, "use `{kind: rope_axes}`")

    def sizes_of_blocks(self) -> dict[str, Any]:
        return {"single": self.single}

    def read(
        self, b: Builder, x: Var, y: Var, c: Var, mask: Sequence[Var], rotary: Sequence[Var], sizes: Mapping[str, Any]
    ) -> Var:
        own = {"dim": sizes["width"], "heads": sizes["heads"], "hidden": sizes["hidden"]}
        others, masked, count = (*mask, *rotary), bool(mask), (y.shape[1], x.shape[1])
        for name in items("blocks", sizes["depth"]):
            x, y = b.sub(name, _block(masked), x, y, c, *others, out="x y", **own)
        both = b.concat(y, x, axis=1, out="both")
        for name in items("single_blocks", sizes["single"]):
            both = b.sub(name, _single_block(masked), both, c, *others, out="both", **own)
        _, x = b.split(both, axis=1, sizes=count, out="y x")
        return x

    def image(self, b: Builder, x: Var, sizes: Mapping[str, Any]) -> Var:
        size = sizes["size"]
        return unpatchify(b, x, (sizes["out_channels"], size, size), patch=sizes["patch"])


@cache
def _block(masked: bool) -> BlockBody:
    @module_class("DoubleBlock", x="B T dim", y="B L dim", c="B dim")
    def block(b: Builder, x: Var, y: Var, c: Var, *others: Var, dim: int, heads: int, hidden: int) -> Any:
        """Patches x and tokens y, each with weights of its own, attend to both."""
        shift, scale, gate, *x_mlp = modulation(b, "adaLN", c, dim, _ALL)
        y_names = " ".join(f"y_{name}" for name in _ALL.split())
        y_shift, y_scale, y_gate, *y_mlp = modulation(b, "context_adaLN", c, dim, y_names)
        h, y_h = modulated(b, x, shift, scale), modulated(b, y, y_shift, y_scale)
        body = joint_attention(True, masked, False)
        h, y_h = b.sub("attn", body, h, y_h, *others, out="h y_h", dim=dim, heads=heads)
        x, y = b.add(x, gate * h, out="x"), b.add(y, y_gate * y_h, out="y")
        return fed(b, "mlp", x, x_mlp, dim, hidden), fed(b, "context_mlp", y, y_mlp, dim, hidden)

    return block


@cache
def _single_block(masked: bool) -> BlockBody:
    @module_class("SingleBlock", x="B N dim", c="B dim")
    def block(b: Builder, x: Var, c: Var, *others: Var, dim: int, heads: int, hidden: int) -> Var:
        """Attention and a feed-forward layer of one norm of all tokens x, side by side and projected together."""
        mask, rotary = others[:masked], others[masked:]
        shift, scale, gate = modulation(b, "adaLN", c, dim, "shift scale gate")
        h = modulated(b, x, shift, scale)
        q, k, v = heads_of(b, "", h, dim, heads, True)
        if rotary:
            q, k = (b.rotary(one, *rotary, interleaved=True, out=name) for one, name in ((q, "q"), (k, "k")))
        mixed = joined_heads(b, b.attention(q, k, v, *mask, causal=False, scale=None, out="mixed"), dim, out="mixed")
        h = b.gelu(dense(b, "fc1", h, hidden, True, INIT, out="h"), approximate="tanh", out="h")
        h = dense(b, "proj", b.concat(mixed, h, axis=2, out="h"), dim, True, INIT, out="h")
        return b.add(x, gate * h, out="x")  # type: ignore[no-any-return]

    return block
