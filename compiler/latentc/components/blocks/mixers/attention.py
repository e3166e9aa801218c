"""Multi-head attention: full or causal, grouped queries, QK norm, rotary positions, whole sequences or a cache.

Symbols: B batch, T tokens, N tokens at once, D width, E size of the condition, H heads, H_kv heads of keys and values,
d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.mixing import apart
from latentc.components.decoding import BlockForm, Given
from latentc.components.parts import Applies, Mixer, Problem, Refusal, Spec, TokenNorm, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, Var


@dataclass(frozen=True)
class Call:
    """One use of attention: what builds it, what is given with the tokens, and the sizes of the module."""

    b: Builder
    init: str
    given: Given
    dim: Any
    heads: Any
    kv_heads: Any
    """Key and value heads; None: as many as query heads."""
    sizes: Mapping[str, Any]
    """Further sizes, such as `grid`."""
    more: tuple[Var, ...] = ()
    """The operands that `Attention.further` adds."""


class Attention(Mixer):
    """softmax(q k^T / sqrt(d)) v over H heads (Vaswani et al. 2017); fewer key and value heads: Ainslie et al. 2023."""

    kind: Literal["attention"]
    heads: int = Field(gt=0, le=1_024, description="query heads; must divide the width, unless `head_width` is given")
    head_width: int | None = Field(None, gt=0, le=16_384, description="channels per head; null: the width over `heads`")
    kv_heads: int | None = Field(
        None, gt=0, le=1_024, description="key and value heads, a divisor of `heads`; null: same as `heads`"
    )
    causal: bool = Field(False, description="causal mask: a token sees only itself and earlier tokens")
    bias: bool = Field(True, description="biases of the four projections")
    qkv_bias: bool | None = Field(None, description="biases of the query, key and value projections; null: as `bias`")
    qk_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm of queries and keys, per head (Henry et al. 2020)"
    )
    APPLIES: ClassVar[Applies] = {"qk_norm_joint": ("qk_norm", None)}
    qk_norm_joint: bool = Field(False, description="`qk_norm` is over all heads at once (Halton-MaskGIT)")
    rotary_halves: bool = Field(
        False, description="rotary positions pair channels i and i + d / 2 of a head instead of neighbours"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the output, in training")
    weight_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the attention weights, in training")
    CLASS: ClassVar[tuple[str, str]] = ("Attention", "Multi-head self-attention")
    """Name of the emitted class, and the beginning of its docstring."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "attention", "heads": 2}

    @property
    def head_count(self) -> int:
        return self.heads

    def head_size(self, width: int) -> int:
        return self.head_width or super().head_size(width)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("front",)

    @property
    def ordered(self) -> bool:
        return self.causal

    @property
    def value_bias(self) -> bool:
        """Whether queries and values have a bias."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    def problems(self, spec: Spec) -> Iterator[Problem]:
        kv = self.kv_heads or self.heads
        if self.heads % kv:
            message = f"{kv} key heads do not divide {self.heads} query heads"
            yield Problem(("kv_heads",), message, a_divisor(self.heads))

    def static(self, dim: int) -> dict[str, Any]:
        grouped = {} if self.kv_heads in (None, self.heads) else {"kv_heads": self.kv_heads}
        own = {} if self.head_width is None else {"head_width": self.head_width}
        return {"heads": self.heads, **own, **grouped}

    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        form, further = given.form, self.further(given)
        if form.method == "extend" and self.ordered:
            message = "this network takes tokens in chunks, in an order of its own, so its attention cannot be causal"
            raise Refusal(message, "set `causal: false`", ("causal",), self)
        out = f"{x.value.name} keys values" if form.cached else ""
        body = _module(self, init, form, len(further))
        made = b.sub(name, body, x, *further, *given.operands, *given.rotary, out=out, **static)
        return made if form.cached else (made,)

    def further(self, given: Given) -> tuple[Var, ...]:
        """Operands after x, called c: the condition, if weights depend on it. Refusal: there is none."""
        return ()

    def attended(self, call: Call, x: Var) -> tuple[Var, ...]:
        """Attention of x f32[B, N, D]; then, if the form has a cache, its keys and values with those of x."""
        b, values, form = call.b, call.given.values, call.given.form
        q, k, v = self.heads_of(call, x)
        if form.tempered:
            temperature = b.reshape(values["temperature"], shape=(x.shape[0], 1, 1, 1), out="temperature")
            q = b.div(q, temperature, out="q")
        if form.method == "extend":
            k = b.concat(values["keys"], k, axis=2, out="keys")
            v = b.concat(values["values"], v, axis=2, out="values")
        elif form.method == "decode":
            k = b.update_slice(values["keys"], k, values["position"], axis=2, out="keys")
            v = b.update_slice(values["values"], v, values["position"], axis=2, out="values")
        x = self.projected(call, self.mixed(call, q, k, v))
        return (x, k, v) if form.cached else (x,)

    def heads_of(self, call: Call, x: Var) -> tuple[Var, Var, Var]:
        """q [B, H, N, d], k and v [B, H_kv, N, d] of x [B, N, D]."""
        b, heads = call.b, call.heads
        head_dim, inner = self.widths(call)
        kv, kv_dim = (heads, inner) if call.kv_heads is None else (call.kv_heads, call.kv_heads * head_dim)
        q, k, v = self.projections(call, x, inner, kv_dim)
        if self.qk_norm_joint:
            q, k = self._normalised(call, q, k, 1)
        q, k, v = (
            split_heads(b, part, count, head_dim, label)
            for part, count, label in zip((q, k, v), (heads, kv, kv), "qkv", strict=True)
        )
        if not self.qk_norm_joint:
            q, k = self._normalised(call, q, k, 2)
        if call.given.rotary:
            q = b.rotary(q, *call.given.rotary, interleaved=not self.rotary_halves, out="q")
            k = b.rotary(k, *call.given.rotary, interleaved=not self.rotary_halves, out="k")
        return q, k, v

    def widths(self, call: Call) -> tuple[Any, Any]:
        """Channels of a head, and of all query heads."""
        size = call.sizes.get("head_width")
        return (call.dim // call.heads, call.dim) if size is None else (size, call.heads * size)

    def projections(self, call: Call, x: Var, inner: Any, kv_dim: Any) -> tuple[Var, Var, Var]:
        """q [B, N, inner], k and v [B, N, kv_dim] of x [B, N, D]."""
        qkv = self.joint(call, x, inner + 2 * kv_dim if call.kv_heads else 3 * inner, self.value_bias)
        q, k, v = call.b.split(qkv, axis=2, sizes=(inner, kv_dim, kv_dim), out="q k v")
        return q, k, v

    def joint(self, call: Call, x: Var, size: Any, bias: bool) -> Var:
        """Queries, keys and values side by side, f32[B, N, size]."""
        return self.linear(call, "qkv", x, size, bias, "qkv")

    def mixed(self, call: Call, q: Var, k: Var, v: Var) -> Var:
        """Attention of q to k and v: f32[B, H, N, d]."""
        mask, causal = self.mask(call, q, k), self.causal and call.given.form.method != "decode"
        drop = {"dropout": self.weight_dropout} if self.weight_dropout else {}
        return call.b.attention(
            q, k, v, *(() if mask is None else (mask,)), causal=causal, scale=self.scale(q), **drop, out="x"
        )

    def mask(self, call: Call, q: Var, k: Var) -> Var | None:
        """A bias of the scores, or true for the tokens that may be seen; None: all, or those before if `causal`."""
        return call.given.mask

    def scale(self, q: Var) -> float | None:
        """The factor of the scores; None: 1 / sqrt(d)."""
        return None

    def projected(self, call: Call, x: Var) -> Var:
        """The heads' outputs [B, H, N, d] joined and projected: [B, N, D]."""
        x = joined_heads(call.b, x, self.widths(call)[1])
        return self.dropped(call, self.linear(call, "proj", x, call.dim, self.bias, "x"))

    def dropped(self, call: Call, x: Var) -> Var:
        """The output after dropout."""
        return call.b.dropout(x, p=self.dropout, out="x") if self.dropout else x

    def linear(self, call: Call, name: str, x: Var, features: Any, bias: bool, out: str) -> Var:
        """The linear layer `name` of x [B, N, ...]; leading tokens may have one of their own."""
        layer = lambda part, own: self.layer(call, f"{own}{name}", part, features, bias, out)  # noqa: E731
        return apart(call.b, x, call.sizes.get("front", 0), layer, out)

    def layer(self, call: Call, name: str, x: Var, features: Any, bias: bool, out: str) -> Var:
        """The linear layer `name` of x, with the same weights for all tokens."""
        return dense(call.b, name, x, features, bias, call.init, out)

    def _normalised(self, call: Call, q: Var, k: Var, axis: int) -> tuple[Var, Var]:
        b, norm, front = call.b, self.qk_norm, call.sizes.get("front", 0)
        if not isinstance(norm, TokenNorm):
            return q, k
        q = apart(b, q, front, lambda part, own: norm.apply(b, f"{own}q_norm", part), "q", axis)
        return q, apart(b, k, front, lambda part, own: norm.apply(b, f"{own}k_norm", part), "k", axis)


def one_key_per_query(config: Attention, call: Call, channels: int = 2) -> None:
    """Refusal of attention that turns queries and keys alike, but is causal, grouped or cached, or whose heads do not
    have a multiple of so many channels.
    """
    if config.causal or call.kv_heads is not None or call.given.form.cached:
        message = f"a `{config.kind}` needs whole sequences, and as many key heads as query heads"
        raise Refusal(message, "leave out `causal` and `kv_heads`, or use `{kind: attention}`", part=config)
    if (size := int(config.widths(call)[0])) % channels:
        message = (
            f"{int(call.heads)} heads have {size} channels each, but `{config.kind}` needs a multiple of {channels}"
        )
        raise Refusal(message, "use fewer heads", ("heads",), config)


_DOCS = {
    "begin": "Attention of the first tokens to themselves; returns their keys and values, which begin the cache.",
    "extend": "Attention of tokens to themselves and to the cache; returns the cache with theirs appended.",
    "decode": "Attention of one token to itself and the cached ones before it; returns the grown caches too.",
}


@cache
def _module(config: Attention, init: str, form: BlockForm, further: int) -> BlockBody:
    names = ("x", *("c",) * further, *form.operands)

    def attention(b: Builder, *operands: Var, dim: int, heads: int, kv_heads: int | None = None, **sizes: Any) -> Any:
        values, rotary = dict(zip(names, operands, strict=False)), operands[len(names) :]
        call = Call(b, init, Given(form, values, rotary), dim, heads, kv_heads, sizes, operands[1 : 1 + further])
        made = config.attended(call, operands[0])
        return made if form.cached else made[0]

    name, words = config.CLASS
    attention.__doc__ = _DOCS.get(
        form.method, f"{words}{' to the tokens where `mask` is true' if form.masked else ''}."
    )
    return BlockBody(attention, form.cls(name), form.method, {}, names)
