"""A denoiser whose encoder sees some of the patches: unified masked diffusion.

No patch_transformer: an encoder and a decoder of different length, and in training mask tokens for what is hidden.
Symbols: B batch, C channels, T tokens (patches), K tokens that are seen, P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, problems_of_square
from latentc.components.kit.tokens import rows
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class MaskedDenoiser(Backbone):
    """Predicts data and noise of a noisy image, parts of which may be hidden (UMD, Hansen-Estruch et al. 2024,
    arXiv:2406.17688). `forward` takes all of x f32[B, C, H, W], t f32[B] and its conditions, and returns the noise
    f32[B, C, H, W], or the data if the objective samples with that. `predict` also returns the data, first, and a
    representation f32[B, D]; `predict_hidden_0`, … additionally take one number per patch f32[B, T], hide the
    patches with the highest numbers, as many as the objective sets, and return where they are, f32[B, T]. The
    embeddings of time and conditions are added.
    """

    kind: Literal["masked_denoiser"]
    width: int = Field(ge=4, le=65_536, multiple_of=2, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_depth: int = Field(gt=0, le=512, description="blocks of the decoder")
    patch: int = Field(gt=0, le=1_024, description="side of a patch (P)")
    class_tokens: int = Field(4, gt=0, le=1_024, description="learned tokens whose mean is the representation")
    block: Block = Field(
        description="block of encoder and decoder; with the condition `in_context` the condition is a token"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "masked_denoiser",
        "width": 16,
        "depth": 1,
        "decoder_depth": 1,
        "patch": 2,
        "block": {**Block.EXAMPLE, "condition": {"kind": "adaln_zero"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise", "denoise_hidden"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("width",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, "a vector", None)
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        yield from self.problems_of_variance(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, size, _ = spec.data.shape
        time, entries = spec.time.model_copy(update={"frequencies": self.width}), self.entries(spec)
        static: dict[str, Any] = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "decoder_depth": self.decoder_depth,
            "class_tokens": self.class_tokens,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        tokens = (size // self.patch) ** 2
        hidden = [ratio for ratio in asked(spec, name, "hidden_ratios", ()) if ratio]
        static |= {f"seen_{i}": max(1, int(tokens * (1.0 - ratio))) for i, ratio in enumerate(hidden)}
        state, cond = Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time")
        ports = (state, cond, *ports_of(entries))
        scores = Port("scores", f32(B, Named(tokens, "T")), "noise")
        methods, by_data = {}, asked(spec, name, "samples_data", False)
        both: tuple[Role, ...] = ("output", "features")
        for method in ("forward", "predict", *(f"predict_hidden_{i}" for i in range(len(hidden)))):
            own = (*ports, scores) if method.startswith("predict_") else ports
            roles = ("output",) if method == "forward" else both if method == "predict" else (*both, "mask")
            methods[method] = add_method(
                mb, name, method, _method(self, time, entries, method, by_data), own, static, roles
            )
        return Network(name, methods, self.PROVIDES)


@cache
def _stack(config: MaskedDenoiser, cls: str) -> BlockBody:
    """Blocks and a norm over x f32[B, T, D] and the condition c f32[B, D]."""
    mixer, feed_forward, norm, condition = config.block.parts()
    block, within = condition.block(mixer, feed_forward, norm, config.weights), condition.TAKES is None

    @module_class(cls)
    def stack(b: Builder, x: Var, c: Var, *, dim: int, depth: int, **static: Any) -> Var:
        """Transformer blocks and a norm."""
        shared = [] if within else [condition.shared(b, c, dim)]
        for name in items("blocks", depth):
            if within:
                x = b.concat(b.reshape(c, shape=(x.shape[0], 1, dim)), x, axis=1, out="x")
            x = b.sub(name, block, x, *shared, dim=dim, **static)
            if within:
                x = b.slice(x, axis=1, start=1, stop=x.shape[1], out="x")
        return norm.apply(b, "norm", x)

    return stack


@module_class("Trunk")
def _trunk(b: Builder, x: Var, *, dim: int) -> Var:
    """Two linear layers with SiLU between them."""
    return dense(b, "fc2", b.silu(dense(b, "fc1", x, 2 * dim, True, "xavier")), dim, True, "xavier")


@cache
def _method(
    config: MaskedDenoiser, time: TimeFeatures, entries: tuple[Entry, ...], method: str, by_data: bool
) -> BlockBody:
    condition = config.block.parts()[3]
    encoder, decoder = _stack(config, "Encoder"), _stack(config, "Decoder")
    hides = method.startswith("predict_")

    def embedded(b: Builder, t: Var, conditions: tuple[Var, ...], width: Any, static: dict[str, Any]) -> Var:
        vectors = [b.sub("t_trunk", _trunk, time.features(b, t, **{**time.static(), "frequencies": width}), dim=width)]
        for entry, operands in with_operands(entries, conditions):
            name = entry.ports[0].name
            vector = entry.vector(b, entry.prefix, operands, width, static)
            vectors.append(b.sub(f"{name}_trunk", _trunk, vector, dim=width))
        return summed(b, "c", vectors)

    @module_class("MaskedDenoiser", method, x="B channels size size")
    def body(b: Builder, x: Var, t: Var, *others: Var, size: int, patch: int, channels: int, **static: Any) -> Any:
        """Predicts data and noise of noisy x at time t, given the conditions."""
        *conditions, scores = others if hides else (*others, t)
        batch, width, grid = x.shape[0], static["width"], size // patch
        tokens, front = Named(grid**2, "T"), static["class_tokens"]
        c = embedded(b, t, tuple(conditions), width, static)
        x = embedded_patches(b, "x_embedder", x, width, patch, "xavier", tokens)
        deviation = 1.0 / float(int(grid))
        x = x + b.param("pos_embed", f32(1, tokens, width), "normal", std=deviation)
        seen = place = None
        if hides:
            count = static[f"seen_{method.removeprefix('predict_hidden_')}"]
            order = b.argsort(scores, out="order")
            x = rows(b, x, b.slice(order, axis=1, start=0, stop=count, out="chosen"), "x")
            place = b.argsort(order, out="place")
            seen = b.less(place, count, out="seen")
            place = b.minimum(place, count - 1, out="place")
        front_tokens = b.param("class_tokens", f32(1, front, width), "zeros")
        x = b.concat(b.broadcast_to(front_tokens, x, shape=(batch, front, width)), x, axis=1, out="x")
        sizes = config.block.own(width, static)
        x = b.sub("encoder", encoder, x, c, dim=width, depth=static["depth"], **sizes)
        first = b.slice(x, axis=1, start=0, stop=front, out="first")
        representation = b.mean(first, axes=(1,), keepdims=True, out="representation")
        x = b.slice(x, axis=1, start=front, stop=x.shape[1], out="x")
        if seen is not None and place is not None:
            mask_token = b.param("mask_token", f32(1, 1, width), "normal", std=0.02)
            x = b.where(b.reshape(seen, shape=(*seen.shape, 1)), rows(b, x, place, "x"), mask_token, out="x")
        x = x + b.param("decoder_pos_embed", f32(1, tokens, width), "normal", std=deviation)
        x = b.concat(representation, x, axis=1, out="x")
        x = b.sub("decoder", decoder, x, c, dim=width, depth=static["decoder_depth"], **sizes)
        x = b.slice(x, axis=1, start=1, stop=x.shape[1], out="x")
        if condition.TAKES is not None:
            shift, scale = condition.final_modulation(b, c, width)
            x = x * (scale + 1.0) + shift
        x = b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(batch, width, grid, grid), out="x")
        kernel = b.param("final.weight", f32(width, 2 * channels, patch, patch), "normal", std=0.02)
        x = b.conv_transpose(x, kernel, b.param("final.bias", f32(2 * channels), "zeros"), stride=patch, out="x")
        if method == "forward":
            return b.split(x, axis=1, sizes=(channels, channels), out="data noise")[0 if by_data else 1]
        representation = b.reshape(representation, shape=(batch, width), out="representation")
        if seen is None:
            return x, representation
        return x, representation, 1.0 - b.cast(seen, to="f32", out="hidden")

    return body
