"""Stages of transformer blocks with a pooled output: vision transformers, hierarchical (Swin, Iwin) or not (DeiT).

Symbols: B batch, C channels, D width of a stage, K classes, T tokens of a square.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.stochastic_depth import DropPath, dropping, growing_rates
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import MEAN, halving_conv, patch_conv, standardised
from latentc.components.networks._stages import Staged
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Norm, Positions, Problem, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class StagedClassifier(Staged):
    """Classifies images with stages of blocks, each at half the resolution of the previous one (Swin, Iwin).

    With one stage and `class_token` it is a vision transformer, such as DeiT (Touvron et al. 2020, arXiv:2012.12877).
    Takes x f32[B, C, H, H]; returns logits f32[B, K] over the classes of the data's labels. It takes neither the time
    nor conditions.
    """

    kind: Literal["staged_classifier"]
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    patch: int = Field(4, gt=0, le=1_024, description="side of a patch, in pixels of the input")
    patch_norm: bool = Field(True, description="norm of the embedded patches")
    class_token: bool = Field(False, description="read out a learned class token; false: the mean of the patches")
    image: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size to which images are first resized, bilinearly; null: not resized",
    )
    normalise: bool = Field(
        False,
        description="first convert x from [-1, 1] to ImageNet's mean and standard deviation, as pretrained "
        "weights expect",
    )
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="position encoding; null: none"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers and convolutions")
    drop_path: DropPath = Field(
        0.0,
        description="stochastic depth in training: probability that a sample skips a branch of the last block, "
        "increasing from 0 over the blocks",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "staged_classifier",
        "width": 8,
        "multipliers": [1, 2],
        "depths": [1, 1],
        "patch": 2,
        "drop_path": 0.1,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp", "ratio": 2.0},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square arrays [C, H, H], but the data has {spec.data.words}")
        elif (side := self.seen(shape[1])) % self.patch:
            yield Problem(("patch",), f"patches of {self.patch} do not tile a side of {side}", a_divisor(side))
        else:
            yield from self.problems_of_stages(spec, side // self.patch)
            yield from self._problems_of_first(shape[0])
        yield from problems_of_labels(self.kind, spec)
        yield from self.block.problems_of_condition(self.kind, None)
        if isinstance(self.positions, Positions) and self.positions.ROTARY:
            message = f"`{self.positions.kind}` is for one resolution"
            yield Problem(("positions",), message, "use `{kind: learned}`, `{kind: sincos_2d}` or null")

    def seen(self, size: int) -> int:
        """Side of the images that it sees, in pixels, of images of side `size`."""
        return size if self.image is None else self.image

    def _problems_of_first(self, channels: int) -> Iterator[Problem]:
        """What is wrong with how images become tokens."""
        if self.normalise and channels != len(MEAN):
            message = f"ImageNet's mean has {len(MEAN)} channels, but the data has {channels}"
            yield Problem(("normalise",), message, "leave `normalise` out")
        if not self.class_token:
            return
        gridded = isinstance(self.positions, Positions) and self.positions.GRIDDED
        if self.stages > 1 or self.block.parts()[0].spatial or gridded:
            message = "a class token has no place in the square that later stages, the mixer or the positions need"
            help = "use one stage, `{kind: attention}` and `positions: {kind: learned}`, or leave the class token out"
            yield Problem(("class_token",), message, help)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        sizes = {"size": self.seen(size), "patch": self.patch, "channels": channels, "width": self.width}
        static = {**sizes, **self.depth_sizes(), "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self), ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"stages": self.stages})


@cache
def _network(config: StagedClassifier) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    block = dropping(block) if config.drop_path else block
    positions = config.positions
    assert positions is None or isinstance(positions, Positions)

    @module_class("StagedClassifier", x="B channels H W" if config.image else "B channels size size")
    def forward(
        b: Builder, x: Var, *, size: int, patch: int, channels: int, width: int, classes: int, **static: Any
    ) -> Var:
        """Logits of the classes of x."""
        grid = size // patch
        first = config.features(width, 0)
        init = "normal" if config.weights == "normal" else "xavier_matrix"
        x = standardised(b, x) if config.normalise else x
        x = x if config.image is None else b.resize(x, size=(size, size), mode="bilinear", out="x")
        x = patch_conv(b, "x_embedder", x, first, patch, init)
        x = as_tokens(b, x, Named(int(grid * grid), "T", "grid ** 2"))
        x = norm.apply(b, "patch_norm", x) if config.patch_norm else x
        if config.class_token:
            token = b.param("cls_token", f32(1, 1, first), "normal", std=0.02)
            x = b.concat(b.broadcast_to(token, x, shape=(x.shape[0], 1, first), out="token"), x, axis=1, out="x")
        x = x if positions is None else positions.add(b, x, first, grid)
        rates = growing_rates(b, config.drop_path, sum(config.depths))
        for stage, depth in enumerate(config.depths):
            if stage:
                sizes = {"dim": x.shape[2], "features": config.features(width, stage), "grid": grid}
                x = b.sub(f"down_{stage - 1}", _downsample(norm, config.weights), x, **sizes)
                grid = grid // 2
            x = config.run(b, block, x, (), stage, grid, static, rates[:depth])
            rates = rates[depth:]
        x = norm.apply(b, "norm", x)
        if config.class_token:
            x = b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(x.shape[0], x.shape[2]), out="x")
        else:
            x = b.mean(x, axes=(1,), keepdims=False, out="x")
        return dense(b, "head", x, classes, True, config.weights, out="logits")

    return forward


@cache
def _downsample(norm: Norm, init: str) -> BlockBody:
    @module_class("Downsample")
    def forward(b: Builder, x: Var, *, dim: int, features: int, grid: int) -> Var:
        """Halves the resolution of a square of tokens."""
        x = as_map(b, norm.apply(b, "norm", x), grid)
        half = grid // 2
        return as_tokens(b, halving_conv(b, "conv", x, features, init, out="x"), half * half)

    return forward


__all__ = ["StagedClassifier"]
