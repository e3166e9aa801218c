"""A transformer that predicts all tokens of a scale from the scales before it: VAR.

A file of its own because its tokens see each other within a scale, its inputs are latents rather than tokens, and it
decodes a scale at a time.

Symbols: B batch, n the side of a scale's map of tokens, L tokens of all scales, Z channels of the latents, V
vocabulary, D width, H_kv key heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.stochastic_depth import DropPath, dropping, growing_rates
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, embedded_sum, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import BEGIN, EXTEND, MASKED
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Norm, Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B


class ScaleTransformer(TokenBlocks):
    """Transformer in which tokens see those of their own and previous scales (VAR, Tian et al. 2024, arXiv:2404.02905).

    `forward`: the latents before each scale but the first, at its resolution, f32[B, L - n n, Z], and the conditions ->
    logits f32[B, L, V]. `scale_0`: the conditions -> logits f32[B, n n, V] of the first scale, then the caches, a pair
    (keys, values) f32[B, H_kv, tokens so far, d] per block; `scale_1`, …: latents f32[B, n n, Z], the conditions, the
    caches -> the same for the next scale; the last returns only logits.
    """

    kind: Literal["scale_transformer"]
    scales: tuple[Size, ...] = Field(min_length=2, max_length=64, description="sides of the token maps, one per scale")
    latent: int = Field(gt=0, le=65_536, description="channels of the tokenizer's latents (Z)")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    drop_path: DropPath = Field(
        0.0,
        description="stochastic depth in training: probability that a sample skips a branch of the last block, "
        "increasing from 0 over the blocks",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "scale_transformer",
        "width": 16,
        "depth": 2,
        "scales": [1, 2, 4],
        "latent": 4,
        "drop_path": 0.1,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "cosine": 100},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_scale"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(side**2 for side in self.scales)

    def parts(
        self, entries: tuple[Entry, ...], b: Builder, width: int, static: Any, conditions: Sequence[Var]
    ) -> ScaleParts:
        """What its methods share, given the operands of the conditions."""
        return ScaleParts(self, entries, b, width, static, conditions)

    def logits_per_token(self, spec: Spec) -> int:
        """Number of logits of a token."""
        assert spec.data.tokens is not None
        return spec.data.tokens.vocabulary

    def problems_of_data(self, spec: Spec) -> Iterator[Problem]:
        """Samples that do not have the tokens of these scales."""
        tokens = spec.data.tokens
        if tokens is None:
            yield Problem((), f"a {self.kind} takes tokens, but the data has {spec.data.words}")
        elif tokens.length != sum(self.lengths):
            message = f"these scales have {sum(self.lengths)} tokens, but samples have {tokens.length}"
            yield Problem(("scales",), message, f"set `data.tokens.grid: [{sum(self.lengths)}]`")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_data(spec)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from self.block.problems_of_condition(self.kind, "a vector", tokens=True)
        if not self.takes(spec):
            message = f"a {self.kind} begins with a condition, but takes none"
            yield Problem((), message, "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        static: dict[str, Any] = {
            "vocabulary": self.logits_per_token(spec),
            "latent": self.latent,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }
        entries, lengths = self.entries(spec), self.lengths
        cond = ports_of(entries)
        rest = Port("inputs", f32(B, sum(lengths[1:]), self.latent), "state")
        methods = {
            "forward": add_method(mb, name, "forward", _forward(self, entries), (rest, *cond), static, ("logits",))
        }
        kv_heads, size = static.get("kv_heads", static["heads"]), self.width // static["heads"]
        for k, length in enumerate(lengths):
            before = sum(lengths[:k])
            caches = (Port("caches", f32(B, kv_heads, before, size), "cache"),) * (2 * self.depth if k else 0)
            ports = (*((Port("inputs", f32(B, length, self.latent), "state"),) if k else ()), *cond, *caches)
            last = k == len(lengths) - 1
            cache_: Role = "cache"
            outputs: tuple[Role, ...] = ("logits", *(cache_,) * (0 if last else 2 * self.depth))
            methods[f"scale_{k}"] = add_method(mb, name, f"scale_{k}", _scale(self, entries, k), ports, static, outputs)
        scale_of = tuple(k for k, length in enumerate(lengths) for _ in range(length))
        return Network(name, methods, self.PROVIDES, sizes={"tokens": len(scale_of), "scale_of": scale_of})


class ScaleParts:
    """Shared by the methods: c [B, D] is the embedded conditions, `context` their tokens, to which blocks attend."""

    def __init__(
        self,
        config: ScaleTransformer,
        entries: tuple[Entry, ...],
        b: Builder,
        width: int,
        static: Any,
        conditions: Sequence[Var],
    ) -> None:
        self.config, self.entries, self.b, self.width, self.static = config, entries, b, width, static
        self.c, self.context = self.conditioned(conditions)

    def conditioned(self, conditions: Sequence[Var]) -> tuple[Var, tuple[Var, ...]]:
        """c, the sum of the embedded conditions, and the context: f32[B, L, E], perhaps a mask bool[B, L], or none."""
        return embedded_sum(self.b, self.entries, conditions, self.width, self.static), ()

    def rotary(self, first: int, last: int) -> tuple[Var, ...]:
        """Rotary tables of the tokens of the scales `first` to `last`."""
        return ()

    def start(self) -> Var:
        """Tokens of the first scale [B, n n, D]: the condition."""
        b, c, count = self.b, self.c, self.config.lengths[0]
        start = b.param("start", f32(1, count, self.width), "normal", std=0.02)
        return b.add(b.reshape(c, shape=(c.shape[0], 1, self.width)), start, out="x")

    def embedded(self, inputs: Var) -> Var:
        return dense(self.b, "embed", inputs, self.width, True, self.config.weights, out="x")

    def placed(self, x: Var, first: int, last: int) -> Var:
        """x with the embeddings of the places and of the scales `first` to `last`."""
        b, lengths = self.b, self.config.lengths
        places = b.param("positions", f32(1, sum(lengths), self.width), "normal", std=0.02)
        rows = b.param("scale_embedding", f32(len(lengths), self.width), "normal", std=0.02)
        start, stop = sum(lengths[:first]), sum(lengths[: last + 1])
        if (start, stop) != (0, sum(lengths)):
            places = b.slice(places, axis=1, start=start, stop=stop, out="places")
        scale = np.repeat(np.arange(first, last + 1), lengths[first : last + 1])
        if first == last:
            of_scale = b.slice(rows, axis=0, start=first, stop=first + 1, out="of_scale")
        else:
            of_scale = b.embedding(rows, b.constant(scale, out="scale"), out="of_scale")
        return b.add(x, b.add(places, of_scale, out="places"), out="x")

    def logits(self, x: Var, vocabulary: int) -> Var:
        b, norm = self.b, self.config.block.parts()[2]
        x = b.sub("head_norm", _modulated(norm), x, self.c, dim=self.width)
        return dense(b, "head", x, vocabulary, True, "zeros", out="logits")


@cache
def _modulated(norm: Norm) -> BlockBody:
    @module_class("HeadNorm")
    def head_norm(b: Builder, x: Var, c: Var, *, dim: int) -> Var:
        """Normalises the tokens, then scales and shifts them by the condition."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * dim), out="modulation")
        scale, shift = b.split(modulation, axis=2, sizes=(dim, dim), out="scale shift")
        return norm.apply(b, "norm", x) * (scale + 1.0) + shift

    return head_norm


@cache
def _forward(config: ScaleTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, MASKED)
    block = dropping(block) if config.drop_path else block
    scale = np.repeat(np.arange(len(config.scales)), config.lengths)

    @module_class("ScaleTransformer", inputs="B M latent")
    def forward(
        b: Builder, inputs: Var, *conditions: Var, vocabulary: int, latent: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Logits of the tokens of every scale from the conditions and the latents before each scale."""
        parts = config.parts(entries, b, width, static, conditions)
        x = b.concat(parts.start(), parts.embedded(inputs), axis=1, out="x")
        x = parts.placed(x, 0, len(config.scales) - 1)
        of = b.constant(scale, out="scale")
        length = len(scale)
        seen = b.less_equal(b.reshape(of, shape=(1, length)), b.reshape(of, shape=(length, 1)))
        mask = b.reshape(seen, shape=(1, 1, length, length), out="mask")
        shared, others = condition.shared(b, parts.c, width), (*parts.context, *parts.rotary(0, len(config.scales) - 1))
        sizes = {**config.block.own(width, static), **({"context": len(parts.context)} if parts.context else {})}
        for name, rate in zip(items("blocks", depth), growing_rates(b, config.drop_path, depth), strict=True):
            x = b.sub(name, block, x, *rate, shared, mask, *others, dim=width, **sizes)
        return parts.logits(x, vocabulary)

    return forward


@cache
def _scale(config: ScaleTransformer, entries: tuple[Entry, ...], k: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, EXTEND if k else BEGIN)
    heads = "kv_heads" if "kv_heads" in mixer.static(config.width) else "heads"
    cond = len(ports_of(entries))

    def scale(
        b: Builder, x: Var | None, others: Sequence[Var], vocabulary: int, width: int, depth: int, static: Any
    ) -> tuple[Var, ...]:
        parts, caches = config.parts(entries, b, width, static, others[:cond]), others[cond:]
        x = parts.placed(parts.start() if x is None else parts.embedded(x), k, k)
        shared, more = condition.shared(b, parts.c, width), (*parts.context, *parts.rotary(k, k))
        sizes = {**config.block.own(width, static), **({"context": len(parts.context)} if parts.context else {})}
        x, grown = cached_blocks(b, "blocks", block, int(depth), x, caches, (shared,), more, dim=width, **sizes)
        return parts.logits(x, vocabulary), *(grown if k < len(config.scales) - 1 else ())

    if k == 0:

        @module_class("ScaleTransformer", "scale_0")
        def first(b: Builder, *others: Var, vocabulary: int, latent: int, width: int, depth: int, **static: Any) -> Any:
            """Logits of the first scale's tokens, and the caches."""
            return scale(b, None, others, vocabulary, width, depth, static)

        return first

    @module_class("ScaleTransformer", f"scale_{k}", inputs="B N latent", caches=f"B {heads} S width//heads")
    def later(
        b: Builder, inputs: Var, *others: Var, vocabulary: int, latent: int, width: int, depth: int, **static: Any
    ) -> Any:
        """Logits of the next scale's tokens, and the grown caches."""
        return scale(b, inputs, others, vocabulary, width, depth, static)

    return later
