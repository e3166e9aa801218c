"""A transformer that completes a canvas of latents stage by stage: NVG's content generator.

A file of its own because it predicts the last canvas and, from what it would change, the codes of clusters; its
positions are those of the clusters, which differ from sample to sample.

Symbols: B batch, L positions, K stages, Z channels of the latents, V vocabulary, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.networks._granule_blocks import angles, angles_of_class, modulated_linear, parallel_block
from latentc.components.parts import Problem, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


Positive = Annotated[float, Field(gt=0)]


class GranuleNetwork(Backbone):
    """What NVG's two networks have in common."""

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="heads of the attention; divide the width")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the MLPs in units of the width")
    side: int = Field(gt=1, le=256, description="side of the square of latents, a power of 2")
    latent: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")
    kind_channels: int = Field(
        8, gt=0, le=1_024, description="channels of a head that tell kinds of tokens apart, even"
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @property
    def stages(self) -> int:
        """K."""
        return (self.side**2).bit_length() - 1

    @property
    def channels(self) -> tuple[int, int]:
        """Channels of a head for the kind of a token, and for its row or column."""
        return self.kind_channels, (self.width // self.heads - self.kind_channels - 2 * self.stages) // 2

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.tokens is None:
            yield Problem((), f"a {self.kind} takes tokens, but the data has {spec.data.words}")
        if self.side & (self.side - 1):
            yield Problem(("side",), f"a square of side {self.side} is not halved down to one position", "use 4, 8, 16")
        of_kind, of_space = self.channels
        if self.width % self.heads:
            yield Problem(("width",), f"{self.heads} heads do not divide the width of {self.width}")
        elif (
            of_kind % 2
            or of_space < 2
            or of_space % 2
            or of_kind + 2 * (self.stages + of_space) != (self.width // self.heads)
        ):
            message = (
                f"a head of {self.width // self.heads} channels has {of_kind} for the kind, {2 * self.stages} for the "
                f"structure, and an even number each for row and column"
            )
            yield Problem(("kind_channels",), message, "change the width, the heads or this")
        if not self.told(spec):
            yield Problem((), f"a {self.kind} needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def sizes(self, spec: Spec) -> dict[str, Any]:
        """Static arguments that both have."""
        sizes = {"latent": self.latent, "width": self.width, "depth": self.depth, "heads": self.heads}
        return {**sizes, "hidden": self.ratio * self.width, **self.condition_sizes(spec)}


class CanvasTransformer(GranuleNetwork):
    """Predicts the last canvas and the codes of a stage's clusters (NVG, Wang et al. 2025, arXiv:2508.12811).

    In place of the first canvas, which is empty, it reads a learned one.

    `forward`: canvas f32[B, L, Z], structure f32[B, L, K] (embedded at the stage), stage i64[B], the conditions -> the
    last canvas f32[B, L, Z], logits f32[B, L, V], the same for all positions of a cluster.
    """

    kind: Literal["canvas_transformer"]
    factors: tuple[Positive, ...] | None = Field(
        None, description="what normalises the canvas before each stage, and the last: K + 2 numbers; null: 1 each"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_granules"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "canvas_transformer",
        "width": 32,
        "depth": 1,
        "heads": 2,
        "side": 4,
        "latent": 4,
        "kind_channels": 4,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.factors is not None and len(self.factors) != self.stages + 2:
            message = f"{len(self.factors)} factors for {self.stages + 2} canvases"
            yield Problem(("factors",), message, "give one for each stage, and one for the last canvas")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.tokens is not None
        positions, entries = self.side**2, self.entries(spec)
        ports = (
            Port("canvas", f32(B, positions, self.latent), "state"),
            Port("structure", f32(B, positions, self.stages), "position"),
            Port("stage", i64(B), "position", self.stages + 1),
            *ports_of(entries),
        )
        static = {"vocabulary": spec.data.tokens.vocabulary, "stages": self.stages, **self.sizes(spec)}
        outputs: tuple[Role, ...] = ("output", "logits")
        forward = add_method(mb, name, "forward", _forward(self, entries), ports, static, outputs)
        return Network(name, {"forward": forward}, self.PROVIDES)


def told(
    b: Builder, entries: tuple[Entry, ...], conditions: Any, stage: Var, count: Any, width: Any, static: Any
) -> tuple[Var, Var]:
    """The embedded conditions f32[B, D], and with the embedding of the stage, one of `count`, added."""
    vectors = [
        entry.vector(b, f"{entry.ports[0].name}_embedder", operands, width, static)
        for entry, operands in with_operands(entries, conditions)
    ]
    text = reduce(lambda total, vector: b.op("add", total, vector, out="text"), vectors)
    table = b.param("stage_embedder.weight", f32(count, width), "normal", std=0.02)
    return text, b.add(text, b.embedding(table, stage), out="c")


def run(b: Builder, x: Var, c: Var, turn: Var, width: Any, depth: Any, heads: Any, hidden: Any) -> Var:
    for name in items("blocks", depth):
        x = b.sub(name, parallel_block, x, c, turn, dim=width, heads=heads, hidden=hidden)
    return x


@cache
def _forward(config: CanvasTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    positions, factors = config.side**2, config.factors or (1.0,) * (config.stages + 2)

    @module_class("CanvasTransformer", canvas="B L latent", structure="B L stages")
    def forward(
        b: Builder,
        canvas: Var,
        structure: Var,
        stage: Var,
        *conditions: Var,
        vocabulary: int,
        stages: int,
        latent: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        **static: Any,
    ) -> tuple[Var, Var]:
        """The last canvas, and logits of the codes of the stage's clusters."""
        batch = canvas.shape[0]
        text, c = told(b, entries, conditions, stage, stages + 1, width, static)
        start = b.param("start", f32(positions, latent), "normal", std=1.0)
        factor = b.take(b.constant(factors[:-1], "f32", out="factors"), stage, axis=0, out="factor")
        first = b.equal(b.reshape(stage, shape=(batch, 1, 1)), 0, out="first")
        x = b.where(first, start, canvas * b.reshape(factor, shape=(batch, 1, 1)), out="x")
        x = dense(b, "embed", x, width, True, "xavier", out="x")
        x = b.concat(b.reshape(text, shape=(batch, 1, width)), x, axis=1, out="x")
        of_class = angles_of_class(b, canvas, *config.channels, config.stages)
        turn = b.concat(of_class, angles(b, structure, *config.channels, 0), axis=1, out="turn")
        x = run(b, x, c, turn, width, depth, heads, hidden)
        x = b.slice(x, axis=1, start=1, stop=positions + 1, out="x")
        last = b.sub("output", modulated_linear, x, c, dim=width, features=latent) * (1 / factors[-1])
        # Means of what would change, over the positions of each cluster: those whose embeddings are equal.
        digits = b.constant([3.0**j for j in range(int(stages))], "f32", out="digits")
        key = b.sum(structure * digits, axes=(2,), keepdims=True, out="key")
        same = b.cast(b.equal(key, b.transpose(key, perm=(0, 2, 1))), to="f32", out="same")
        mean = b.matmul(same, b.op("sub", last, canvas)) / b.sum(same, axes=(2,), keepdims=True)
        return last, dense(b, "head", mean, vocabulary, True, "xavier", out="logits")

    return forward


__all__ = ["CanvasTransformer", "GranuleNetwork", "run", "told"]
