"""Multi-head attention: full or causal, grouped queries, QK norm, rotary positions, a decoding form with a cache.

Symbols: B batch, T tokens, D width, H heads, d channels of a head, E size of the condition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.axial_rotary import axial_rotary
from latentc.components.blocks.generated import generated_linear
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.low_rank import LowRank
from latentc.components.blocks.merged_experts import ExpertRouter, Merged
from latentc.components.blocks.mixed_rotary import mixed_rotary
from latentc.components.blocks.mixers._attention_modules import (
    beginning,
    conditioned,
    decoding,
    extending,
    looking,
    masked,
    routed,
    whole,
)
from latentc.components.blocks.mixers._attention_scores import UNSEEN, masked_bias, relative_bias, seen_with_first
from latentc.components.blocks.mixing import apart
from latentc.components.blocks.score_kernels._kernels import distances, distances_from
from latentc.components.decoding import Chunk, DecodeState
from latentc.components.parts import Applies, CachedMixer, Problem, ScoreKernel, TokenNorm, dense, under
from latentc.ir.builder import Builder, Var, f32

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Attention(CachedMixer):
    """softmax(q k^T / sqrt(d)) v over H heads (Vaswani et al. 2017); fewer key and value heads: Ainslie et al. 2023."""

    kind: Literal["attention"]
    heads: int = Field(gt=0, le=1_024, description="query heads; must divide the width, unless `head_width` is given")
    head_width: int | None = Field(None, gt=0, le=16_384, description="channels per head; null: the width over `heads`")
    kv_heads: int | None = Field(
        None, gt=0, le=1_024, description="key and value heads, a divisor of `heads`; null: same as `heads`"
    )
    causal: bool = Field(False, description="causal mask: a token sees only itself and earlier tokens")
    unmasked: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="with `causal`: number of leading tokens, those of conditions, visible to all tokens including "
        "each other (taming transformers' `n_unmasked`)",
    )
    bias: bool = Field(True, description="biases of the four projections")
    qkv_bias: bool | None = Field(None, description="biases of the query, key and value projections; null: as `bias`")
    key_bias: bool = Field(True, description="keys have a bias, if queries and values have one")
    qk_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of queries and keys, per head (Henry et al. 2020)"
    )
    cosine: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="scores are cosines times a learned factor per head, initially 4 and at most this; null: dot "
        "products over sqrt(d)",
    )
    score_factor: float = Field(1.0, gt=0, le=1_024, description="additional factor of the scores; not with `cosine`")
    APPLIES: ClassVar[Applies] = {"qk_norm_joint": ("qk_norm", None)}
    qk_norm_joint: bool = Field(False, description="`qk_norm` is over all heads at once (Halton-MaskGIT)")
    relative_bias: bool = Field(
        False,
        description="learned relative position bias per head and offset of rows and columns, for a square of tokens "
        "(Swin Transformer, Liu et al. 2021)",
    )
    generated_projection: bool = Field(
        False,
        description="the weight of the output projection is a learned weight plus a linear map of the condition (CAN)",
    )
    axial_rotary: bool = Field(
        False,
        description="queries and keys are normalised to a learned length per head, and rotated by row and column in "
        "a square of tokens at learned frequencies (HDiT, Crowson et al. 2024)",
    )
    mixed_rotary: float | None = Field(
        None,
        gt=1,
        le=1e12,
        description="queries and keys are rotated by row and column in a square of tokens at learned frequencies per "
        "head, initially between 1 and 1 over this (RoPE-Mixed, Heo et al. 2024); null: no rotation",
    )
    rotary_halves: bool = Field(
        False, description="rotary positions pair channels i and i + d / 2 of a head instead of neighbours"
    )
    score_kernel: Annotated[Component | None, OneOf("blocks/score_kernels")] = Field(
        None, description="kernel of the distance between tokens along the sequence, which modifies the scores"
    )
    routed: ExpertRouter | None = Field(
        None,
        description="query, key, value and output projections are those of experts that the condition chooses "
        "(Uni-Perceiver-MoE); null: one of each",
    )
    adapter: LowRank | None = Field(
        None, description="low-rank adapters of the query, key, value and output projections; null: none"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the output, in training")
    weight_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the attention weights, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "attention", "heads": 2}

    @property
    def head_count(self) -> int:
        return self.heads

    @property
    def own_head_size(self) -> bool:
        return self.head_width is not None

    def head_size(self, width: int) -> int:
        return self.head_width or super().head_size(width)

    @property
    def head_multiple(self) -> int:
        return 4 if self.turns else 1

    @property
    def spatial(self) -> bool:
        return self.relative_bias or self.turns

    @property
    def turns(self) -> bool:
        """Whether queries and keys rotate by their place in a square of tokens."""
        return self.axial_rotary or self.mixed_rotary is not None

    @property
    def ordered(self) -> bool:
        return self.causal

    @property
    def first_seen(self) -> int:
        return self.unmasked

    @property
    def places_tokens(self) -> bool:
        return self.turns

    @property
    def takes_vector(self) -> bool:
        return True

    @property
    def value_bias(self) -> bool:
        """Whether queries and values have a bias."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def looks(self) -> bool:
        own = self.causal or self.relative_bias or self.generates or self.own_head_size or self.score_kernel is not None
        return not own and not self.whole_only and self.kv_heads in (None, self.heads)

    @property
    def generates(self) -> bool:
        return self.generated_projection or self.routes

    @property
    def routes(self) -> bool:
        return self.routed is not None and not self.routed.parts

    @property
    def parted(self) -> bool:
        return self.routed is not None and self.routed.parts > 1

    @property
    def whole_only(self) -> bool:
        return self.routed is not None and self.routed.parts > 0

    @property
    def separates(self) -> bool:
        return self.key_bias and self.cosine is None and not self.generates and not self.whole_only

    @property
    def recalls(self) -> bool:
        own = self.generates or self.whole_only or self.score_kernel is not None
        return not (self.causal or self.spatial or own)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        kv = self.kv_heads or self.heads
        if self.heads % kv:
            divisors = [d for d in range(1, self.heads + 1) if self.heads % d == 0]
            message = f"{kv} key heads do not divide {self.heads} query heads"
            yield Problem(("kv_heads",), message, f"choose one of {', '.join(map(str, divisors))}")
        if isinstance(self.score_kernel, ScoreKernel) and self.score_kernel.multiplies and kv != self.heads:
            message = f"`{self.score_kernel.kind}` multiplies the scores, which needs as many key heads as query heads"
            yield Problem(("score_kernel",), message, "leave out its `factor`, or `kv_heads`")
        scaled = self.cosine is not None or self.score_factor != 1.0
        if scaled and self.score_kernel is not None:
            yield Problem(("score_kernel",), "a score kernel needs scores divided by sqrt(d)", "leave out either")
        if self.cosine is not None and self.score_factor != 1.0:
            yield Problem(("score_factor",), "`cosine` scores already have a learned factor", "leave it out")

        if self.unmasked and (not self.causal or self.score_kernel is not None or self.relative_bias):
            message = "non-causal attention, or attention with a score kernel or relative bias, has no such mask"
            yield Problem(("unmasked",), message, "leave it out")
        where = "axial_rotary" if self.axial_rotary else "mixed_rotary"
        if self.turns and (self.causal or self.kv_heads not in (None, self.heads)):
            message = "rotation on a square of tokens needs non-causal attention with one key head per query head"
            yield Problem((where,), message, "leave out `causal` and `kv_heads`")
        if self.routed is not None:
            yield from under("routed", problems=self.routed.problems_of_choice(spec, self))
            for name, given in (("generated_projection", self.generated_projection), ("adapter", self.adapter)):
                if given:
                    message = f"the projections are those of `routed` experts, which have no `{name}`"
                    yield Problem((name,), message, "leave out either")
        if self.axial_rotary and self.mixed_rotary is not None:
            yield Problem(
                ("mixed_rotary",), "queries and keys are already rotated by `axial_rotary`", "leave out either"
            )

    def static(self, dim: int) -> dict[str, Any]:
        grouped = {} if self.kv_heads in (None, self.heads) else {"kv_heads": self.kv_heads}
        own = {} if self.head_width is None else {"head_width": self.head_width}
        routed = {} if self.routed is None else {"attention_experts": self.routed.experts}
        return {"heads": self.heads, **own, **grouped, **routed}

    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        mask: Var | None = None,
        c: Var | None = None,
        told: Var | None = None,
        **static: Any,
    ) -> Var:
        if told is not None and self.routed is not None and not self.routed.parts:
            return b.sub(name, routed(self, init), x, told, *rotary, **static)  # type: ignore[no-any-return]
        if told is not None:
            return b.sub(name, conditioned(self, init, True), x, told, *rotary, **static)  # type: ignore[no-any-return]
        if mask is not None:
            return b.sub(name, masked(self, init), x, mask, *rotary, **static)  # type: ignore[no-any-return]
        if c is not None:
            return b.sub(name, conditioned(self, init, False), x, c, *rotary, **static)  # type: ignore[no-any-return]
        return b.sub(name, whole(self, init), x, *rotary, **static)  # type: ignore[no-any-return]

    def look(self, b: Builder, name: str, x: Var, context: tuple[Var, ...], init: str, dim: int, **static: Any) -> Var:
        sizes = {**static, "dim": dim, "context_dim": context[0].shape[2]}
        return b.sub(name, looking(self, init), x, *context, **sizes)  # type: ignore[no-any-return]

    def decode(
        self, b: Builder, name: str, x: Var, state: DecodeState, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, Var, Var]:
        tempered = [] if state.temperature is None else [state.temperature]
        operands = (x, state.position, state.mask, state.keys, state.values, *tempered, *rotary)
        body = decoding(self, init, bool(tempered), state.plain)
        return b.sub(name, body, *operands, out=f"{x.value.name} keys values", **static)  # type: ignore[no-any-return]

    def extend(
        self, b: Builder, name: str, x: Var, chunk: Chunk, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, Var, Var]:
        body = (extending if chunk.cache else beginning)(self, init, chunk.mask is not None, chunk.plain)
        operands = (x, *chunk.cache, *(() if chunk.mask is None else (chunk.mask,)), *rotary)
        return b.sub(name, body, *operands, out=f"{x.value.name} keys values", **static)  # type: ignore[no-any-return]

    def attended(
        self,
        b: Builder,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        dim: int,
        heads: int,
        kv_heads: int | None,
        grid: int,
        c: Var | None = None,
        told: Var | None = None,
        head_width: int | None = None,
        front: int = 0,
        merged: Merged | None = None,
    ) -> Var:
        q, k, v = self.heads_of(b, x, rotary, init, dim, heads, kv_heads, c, head_width, front, merged)
        q, k, v = self.turned(b, q, k, v, grid)
        bias = relative_bias(b, heads, grid, x.shape[1]) if self.relative_bias else None
        return self.projected(b, self.mixed(b, q, k, v, bias), dim, init, told, front, merged)

    def turned(self, b: Builder, q: Var, k: Var, v: Var, grid: int) -> tuple[Var, Var, Var]:
        """Queries and keys turned by their places in a square of tokens, if they are."""
        if self.axial_rotary:
            q, k = axial_rotary(b, q, k, grid)
        if self.mixed_rotary is not None:
            q, k = mixed_rotary(b, q, k, grid, self.mixed_rotary)
        return q, k, v

    def mixed(self, b: Builder, q: Var, k: Var, v: Var, mask: Var | None = None, position: Var | None = None) -> Var:
        """Attention of q to k and v: f32[B, H, T_q, d].

        `mask` is a bias of the scores, or true for the tokens that may be seen. `position` i64[] is that of a single
        query; None: all tokens are queries.
        """
        causal = self.causal and position is None
        drop = {"dropout": self.weight_dropout} if self.weight_dropout else {}
        kernel = self.score_kernel
        if causal and self.unmasked:
            causal, mask = False, seen_with_first(b, k.shape[2], self.unmasked, mask)
        if not isinstance(kernel, ScoreKernel):
            extra = () if mask is None else (mask,)
            return b.attention(q, k, v, *extra, causal=causal, scale=self._scale(q), **drop, out="x")
        heads, keys = q.shape[1], k.shape[2]
        distance = distances(b, keys, self.causal) if position is None else distances_from(b, position, keys)
        if not kernel.multiplies:
            _, bias = kernel.terms(b, distance, heads)
            assert bias is not None
            bias = b.reshape(bias, shape=(1, heads, *distance.shape[1:]), out="bias")
            return b.attention(q, k, v, masked_bias(b, bias, mask), causal=causal, scale=None, **drop, out="x")
        scores = b.matmul(q, b.transpose(k, perm=(0, 1, 3, 2))) * (1 / math.sqrt(int(q.shape[3])))
        scores = kernel.on(b, scores, distance)
        if causal:
            place = b.arange(keys)
            seen = b.less_equal(b.reshape(place, shape=(1, keys)), b.reshape(place, shape=(keys, 1)))
            scores = b.where(seen, scores, UNSEEN, out="scores")
        if mask is not None:
            scores = masked_bias(b, scores, mask)
        weights = b.softmax(scores, axis=-1)
        return b.matmul(b.dropout(weights, p=self.weight_dropout) if drop else weights, v, out="x")

    def _scale(self, q: Var) -> float | None:
        """The factor of the scores; None: 1 / sqrt(d)."""
        if self.cosine is not None:
            return 1.0
        return None if self.score_factor == 1.0 else self.score_factor / math.sqrt(int(q.shape[3]))

    def heads_of(
        self,
        b: Builder,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        dim: int,
        heads: int,
        kv_heads: int | None,
        c: Var | None = None,
        head_width: int | None = None,
        front: int = 0,
        merged: Merged | None = None,
    ) -> tuple[Var, Var, Var]:
        """q [B, H, T, d], k and v [B, H_kv, T, d] of x [B, T, D]; a linear map of c [B, E] is added to them.

        The first `front` tokens have layers of their own; `merged` has the layers of experts.
        """
        head_dim, inner = (dim // heads, dim) if head_width is None else (head_width, heads * head_width)
        kv = heads if kv_heads is None else kv_heads
        kv_dim = inner if kv_heads is None else kv_heads * head_dim
        bias = self.value_bias
        size = inner + 2 * kv_dim if kv_heads else 3 * inner
        qkv = self._dense(b, "qkv", x, size, bias and self.key_bias, init, "qkv", front, merged)
        if c is not None:
            added = dense(b, "qkv_condition", c, size, True, init, out="added")
            qkv = b.add(qkv, b.reshape(added, shape=(x.shape[0], 1, size), out="added"), out="qkv")
        q, k, v = b.split(qkv, axis=2, sizes=(inner, kv_dim, kv_dim), out="q k v")
        if bias and not self.key_bias:
            q = b.add(q, b.param("q_bias", f32(inner), "zeros"), out="q")
            v = b.add(v, b.param("v_bias", f32(kv_dim), "zeros"), out="v")
        if self.qk_norm_joint:
            q, k = self._normalised(b, q, k, front, 1)
        q, k, v = (
            split_heads(b, part, count, head_dim, label)
            for part, count, label in zip((q, k, v), (heads, kv, kv), "qkv", strict=True)
        )
        if not self.qk_norm_joint:
            q, k = self._normalised(b, q, k, front, 2)
        if self.cosine is not None:
            q, k = _unit(b, q, "q"), _unit(b, k, "k")
            factor = b.param("log_factor", f32(1, heads, 1, 1), "constant", value=math.log(4.0))
            q = b.mul(q, b.exp(b.minimum(factor, math.log(self.cosine)), out="factor"), out="q")
        if rotary:
            q = b.rotary(q, *rotary, interleaved=not self.rotary_halves, out="q")
            k = b.rotary(k, *rotary, interleaved=not self.rotary_halves, out="k")
        return q, k, v

    def _normalised(self, b: Builder, q: Var, k: Var, front: int, axis: int) -> tuple[Var, Var]:
        norm = self.qk_norm
        if not isinstance(norm, TokenNorm):
            return q, k
        q = apart(b, q, front, lambda part, own: norm.apply(b, f"{own}q_norm", part), "q", axis)
        return q, apart(b, k, front, lambda part, own: norm.apply(b, f"{own}k_norm", part), "k", axis)

    def _dense(
        self,
        b: Builder,
        name: str,
        x: Var,
        features: Any,
        bias: bool,
        init: str,
        out: str,
        front: int = 0,
        merged: Merged | None = None,
    ) -> Var:
        if merged is not None:
            return merged.dense(b, name, x, features, bias, init)
        layer = dense if self.adapter is None else self.adapter.dense
        return apart(b, x, front, lambda part, own: layer(b, f"{own}{name}", part, features, bias, init, out), out)

    def projected(
        self,
        b: Builder,
        x: Var,
        dim: int,
        init: str,
        told: Var | None = None,
        front: int = 0,
        merged: Merged | None = None,
    ) -> Var:
        """The heads' outputs [B, H, T, d] joined and projected, by a weight that `told` changes: [B, T, D]."""
        x = joined_heads(b, x, dim if self.head_width is None else x.shape[1] * x.shape[3])
        if told is None:
            x = self._dense(b, "proj", x, dim, self.bias, init, "x", front, merged)
        else:
            x = b.sub("proj", generated_linear(self.bias, init), x, told, features=dim)
        return b.dropout(x, p=self.dropout, out="x") if self.dropout else x


def _unit(b: Builder, x: Var, out: str) -> Var:
    """x [..., d] divided by its length along the last axis."""
    length = b.sqrt(b.sum(x * x, axes=(3,), keepdims=True), out="length")
    return b.div(x, b.maximum(length, _EPS), out=out)


_EPS = 1e-12
"""Least length that a query or key is divided by."""
