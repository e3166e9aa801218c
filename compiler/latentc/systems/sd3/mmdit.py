"""MM-DiT, the transformer of Stable Diffusion 3.

Symbols: B batch, C channels, D width, P patch side, T patches, L tokens of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.heads import joined_heads
from latentc.components.kit.patches import image
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.systems.sd3.two_streams import INIT, TwoStreams, fed, heads_of, joint_attention, modulated, modulation

_ALL = "shift scale gate shift_mlp scale_mlp gate_mlp"
_SECOND = "shift_2 scale_2 gate_2"


class Mmdit(TwoStreams):
    """MM-DiT (Stable Diffusion 3, Esser et al. 2024, arXiv:2403.03206), and MM-DiT-X of 3.5 with a second attention.

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. The last block changes patches
    alone.
    """

    kind: Literal["mmdit"]
    dual: int = Field(0, ge=0, le=511, description="leading blocks in which patches also attend to patches alone")
    qk_norm: bool = Field(False, description="norms of queries and keys, head by head (Stable Diffusion 3.5)")
    EMITTED: ClassVar[str] = "MMDiT"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "mmdit",
        "width": 16,
        "depth": 3,
        "dual": 1,
        "heads": 2,
        "patch": 2,
        "qk_norm": True,
        "positions": {"kind": "sincos_2d_table", "side": 6, "extent": 4},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.dual >= self.depth:
            message = f"the last block has one attention, but `dual` ({self.dual}) is not below `depth` ({self.depth})"
            yield Problem(("dual",), message, f"use at most {self.depth - 1}")

    def sizes_of_blocks(self) -> dict[str, Any]:
        return {"dual": self.dual}

    def read(
        self, b: Builder, x: Var, y: Var, c: Var, mask: Sequence[Var], rotary: Sequence[Var], sizes: Mapping[str, Any]
    ) -> Var:
        return joint_blocks(b, x, y, c, mask, rotary, self.qk_norm, sizes, sizes["dual"])

    def image(self, b: Builder, x: Var, sizes: Mapping[str, Any]) -> Var:
        return image(b, x, sizes["out_channels"], sizes["grid"], sizes["patch"], sizes["size"])


def joint_blocks(
    b: Builder,
    x: Var,
    y: Var,
    c: Var,
    mask: Sequence[Var],
    rotary: Sequence[Var],
    norm: bool,
    sizes: Mapping[str, Any],
    dual: Any = 0,
) -> Var:
    """x [B, T, D] after `depth` blocks with tokens y [B, L, D], modulated by c [B, D]; `mask` as in `TwoStreams.read`.

    `norm`: queries and keys are normalised. `dual`: blocks with a second attention.
    """
    own = {"dim": sizes["width"], "heads": sizes["heads"], "hidden": sizes["hidden"]}
    others, masked = (*mask, *rotary), bool(mask)
    if int(dual):
        for name in items("dual_blocks", dual):
            x, y = b.sub(name, _block(norm, masked, True), x, y, c, *others, out="x y", **own)
    for name in items("blocks", sizes["depth"] - 1 - dual):
        x, y = b.sub(name, _block(norm, masked, False), x, y, c, *others, out="x y", **own)
    return b.sub("last_block", _last_block(norm, masked), x, y, c, *others, out="x", **own)  # type: ignore[no-any-return]


@cache
def _block(norm: bool, masked: bool, dual: bool) -> BlockBody:
    @module_class("DualBlock" if dual else "JointBlock", x="B T dim", y="B L dim", c="B dim")
    def block(b: Builder, x: Var, y: Var, c: Var, *others: Var, dim: int, heads: int, hidden: int) -> Any:
        names = f"{_ALL} {_SECOND}" if dual else _ALL
        shift, scale, gate, *x_mlp = modulation(b, "adaLN", c, dim, names)
        x_mlp, second = x_mlp[:3], x_mlp[3:]
        y_shift, y_scale, y_gate, *y_mlp = modulation(
            b, "context_adaLN", c, dim, " ".join(f"y_{name}" for name in _ALL.split())
        )
        h, y_h = modulated(b, x, shift, scale), modulated(b, y, y_shift, y_scale)
        h, y_h = b.sub("attn", joint_attention(norm, masked, False), h, y_h, *others, out="h y_h", dim=dim, heads=heads)
        added = b.add(x, gate * h, out="x")
        if dual:
            shift_2, scale_2, gate_2 = second
            h = b.sub("attn2", _attention(norm), modulated(b, x, shift_2, scale_2), dim=dim, heads=heads, out="h")
            added = b.add(added, gate_2 * h, out="x")
        y = b.add(y, y_gate * y_h, out="y")
        return fed(b, "mlp", added, x_mlp, dim, hidden), fed(b, "context_mlp", y, y_mlp, dim, hidden)

    doc = "Patches x and tokens y, each with weights of its own, attend to both"
    block.body.__doc__ = f"{doc}; patches also attend to patches alone." if dual else f"{doc}."
    return block


@cache
def _last_block(norm: bool, masked: bool) -> BlockBody:
    @module_class("LastBlock", x="B T dim", y="B L dim", c="B dim")
    def block(b: Builder, x: Var, y: Var, c: Var, *others: Var, dim: int, heads: int, hidden: int) -> Var:
        """Patches x attend to patches and to tokens y, which end here."""
        shift, scale, gate, *x_mlp = modulation(b, "adaLN", c, dim, _ALL)
        y_shift, y_scale = modulation(b, "context_adaLN", c, dim, "y_shift y_scale")
        h, y = modulated(b, x, shift, scale), modulated(b, y, y_shift, y_scale)
        h = b.sub("attn", joint_attention(norm, masked, True), h, y, *others, out="h", dim=dim, heads=heads)
        x = b.add(x, gate * h, out="x")
        return fed(b, "mlp", x, x_mlp, dim, hidden)

    return block


@cache
def _attention(norm: bool) -> BlockBody:
    @module_class("PatchAttention", x="B T dim")
    def attention(b: Builder, x: Var, *, dim: int, heads: int) -> Var:
        """Multi-head self-attention of patches."""
        q, k, v = heads_of(b, "", x, dim, heads, norm)
        x = joined_heads(b, b.attention(q, k, v, causal=False, scale=None, out="x"), dim, out="x")
        return dense(b, "proj", x, dim, True, INIT, out="x")

    return attention
