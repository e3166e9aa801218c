"""Stages of transformer blocks with a pooled output: hierarchical vision transformers.

Symbols: B batch, C channels, D width of a stage, K classes, T tokens of a square.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.stochastic_depth import DropPath, dropping, growing_rates
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import halving_conv, patch_conv
from latentc.components.networks._stages import Staged
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Norm, Positions, Problem, Spec, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named


class StagedClassifier(Staged):
    """Classifies images with stages of blocks, each at half the resolution of the previous one (Swin, Iwin).

    Takes x f32[B, C, H, H]; returns logits f32[B, K] over the classes of the data's labels. It takes neither the time
    nor conditions.
    """

    kind: Literal["staged_classifier"]
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    patch: int = Field(4, gt=0, le=1_024, description="side of a patch, in pixels of the input")
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
    IMAGE: ClassVar[str] = "B channels size size"
    """Names of the sizes of its input."""
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "staged_classifier",
        "width": 8,
        "multipliers": [1, 2],
        "depths": [1, 1],
        "patch": 2,
        "drop_path": 0.1,
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "ratio": 2.0}},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square arrays [C, H, H], but the data has {spec.data.words}")
        elif (side := self.side(shape[1])) % self.patch:
            yield Problem(("patch",), f"patches of {self.patch} do not tile a side of {side}", a_divisor(side))
        else:
            yield from self.problems_of_stages(spec, side // self.patch)
        yield from problems_of_labels(self.kind, spec)
        yield from self.block.problems_of_condition(self.kind, None)
        if isinstance(self.positions, Positions) and self.positions.ROTARY:
            message = f"`{self.positions.kind}` turns queries and keys of one resolution"
            yield Problem(("positions",), message, "use `{kind: learned}`, `{kind: sincos_2d}` or null")

    def side(self, size: int) -> int:
        """Side of the images whose patches it embeds, in pixels, of images of side `size`."""
        return size

    def prepared(self, b: Builder, x: Var, size: Any) -> Var:
        """The images f32[B, C, size, size] whose patches it embeds."""
        return x

    def embedded(self, b: Builder, x: Var, grid: Any) -> Var:
        """The first stage's tokens [B, T, D] of embedded patches [B, T, D]."""
        return self.placed(b, self.block.parts()[2].apply(b, "patch_norm", x), grid)

    def placed(self, b: Builder, x: Var, grid: Any) -> Var:
        """The first stage's tokens [B, T, D] with their positions."""
        return self.positions.add(b, x, x.shape[2], grid) if isinstance(self.positions, Positions) else x

    def pooled(self, b: Builder, x: Var) -> Var:
        """Features f32[B, D] of the last stage's tokens."""
        return b.mean(x, axes=(1,), keepdims=False, out="x")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        sizes = {"size": self.side(size), "patch": self.patch, "channels": channels, "width": self.width}
        static = {**sizes, **self.depth_sizes(), "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self), ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"stages": self.stages})


@cache
def _network(config: StagedClassifier) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    block = dropping(block) if config.drop_path else block

    @module_class("StagedClassifier", x=config.IMAGE)
    def forward(
        b: Builder, x: Var, *, size: int, patch: int, channels: int, width: int, classes: int, **static: Any
    ) -> Var:
        """Logits of the classes of x."""
        grid = size // patch
        first = config.features(width, 0)
        init = "normal" if config.weights == "normal" else "xavier_matrix"
        x = config.prepared(b, x, size)
        x = patch_conv(b, "x_embedder", x, first, patch, init)
        x = as_tokens(b, x, Named(int(grid * grid), "T", "grid ** 2"))
        x = config.embedded(b, x, grid)
        rates = growing_rates(b, config.drop_path, sum(config.depths))
        for stage, depth in enumerate(config.depths):
            if stage:
                sizes = {"dim": x.shape[2], "features": config.features(width, stage), "grid": grid}
                x = b.sub(f"down_{stage - 1}", _downsample(norm, config.weights), x, **sizes)
                grid = grid // 2
            x = config.run(b, block, x, (), stage, grid, static, rates[:depth])
            rates = rates[depth:]
        x = norm.apply(b, "norm", x)
        x = config.pooled(b, x)
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
