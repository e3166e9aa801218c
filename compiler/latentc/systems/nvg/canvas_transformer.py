"""A transformer that completes a canvas of latents stage by stage: NVG's content generator.

A file of its own because it predicts the last canvas and, from what it would change, the codes of clusters; its
positions are those of the clusters, which differ from sample to sample.

Symbols: B batch, L positions, K stages, Z channels of the latents, V vocabulary, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._alignment import Alignment, projector
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B
from latentc.systems.nvg.granule_blocks import angles, angles_of_class, modulated_linear
from latentc.systems.nvg.granule_network import SMALL, GranuleNetwork, conditioned, run

Positive = Annotated[float, Field(gt=0)]


class CanvasTransformer(GranuleNetwork):
    """Predicts the last canvas and the codes of a stage's clusters (NVG, Wang et al. 2025, arXiv:2508.12811).

    A learned canvas replaces the first one, which is empty. `forward`: canvas f32[B, L, Z], structure f32[B, L, K]
    (embedded at the stage), stage i64[B], the conditions -> the last canvas f32[B, L, Z], logits f32[B, L, V], equal
    for all positions of a cluster. `train_forward`, with an alignment: the same, and features f32[B, L, C] of each
    projection.
    """

    kind: Literal["canvas_transformer"]
    factors: tuple[Positive, ...] | None = Field(
        None,
        description="divisors that normalise the canvas before each stage, and the last canvas: K + 2 values; "
        "null: 1 each",
    )
    alignment: Alignment | None = Field(None, description="projection heads for a feature alignment loss; null: none")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_granules"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "canvas_transformer", **SMALL}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.factors is not None and len(self.factors) != self.stages + 2:
            message = f"{len(self.factors)} factors, but there are {self.stages + 2} canvases"
            yield Problem(("factors",), message, "give one for each stage, and one for the last canvas")
        if self.alignment is not None:
            yield from self.alignment.problems_of_depth(self.depth)

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("features",) if self.alignment is not None else ()

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        channels = () if self.alignment is None else self.alignment.features
        return tuple((self.side**2, one) for one in channels)

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
        methods = {"forward": add_method(mb, name, "forward", _forward(self, entries), ports, static, outputs)}
        if self.alignment is not None:
            static["projection"] = self.alignment.hidden
            aligned: list[Role] = ["features"] * len(self.alignment.features)
            body = _forward(self, entries, self.alignment)
            methods["train_forward"] = add_method(mb, name, "train_forward", body, ports, static, (*outputs, *aligned))
        return Network(name, methods, self.PROVIDES)


@cache
def _forward(config: CanvasTransformer, entries: tuple[Entry, ...], alignment: Alignment | None = None) -> BlockBody:
    positions, factors = config.side**2, config.factors or (1.0,) * (config.stages + 2)
    method = "forward" if alignment is None else "train_forward"

    @module_class("CanvasTransformer", method, canvas="B L latent", structure="B L stages")
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
    ) -> tuple[Var, ...]:
        """The last canvas, and logits of the codes of the stage's clusters."""
        batch = canvas.shape[0]
        text, c = conditioned(b, entries, conditions, stage, stages + 1, width, static)
        start = b.param("start", f32(positions, latent), "normal", std=1.0)
        factor = b.take(b.constant(factors[:-1], "f32", out="factors"), stage, axis=0, out="factor")
        first = b.equal(b.reshape(stage, shape=(batch, 1, 1)), 0, out="first")
        x = b.where(first, start, canvas * b.reshape(factor, shape=(batch, 1, 1)), out="x")
        x = dense(b, "embed", x, width, True, "xavier", out="x")
        x = b.concat(b.reshape(text, shape=(batch, 1, width)), x, axis=1, out="x")
        of_class = angles_of_class(b, canvas, *config.channels, config.stages)
        turn = b.concat(of_class, angles(b, structure, *config.channels, 0), axis=1, out="turn")
        made = run(b, x, c, turn, config.drop_path, width, depth, heads, hidden)
        features: list[Var] = []
        if alignment is not None:
            aligned = b.slice(made[alignment.blocks - 1], axis=1, start=1, stop=positions + 1, out="aligned")
            sizes = {"dim": width, "hidden": static["projection"]}
            every = enumerate(alignment.features)
            features = [
                b.sub(f"projectors.{k}", projector, aligned, **sizes, out_dim=channels) for k, channels in every
            ]
        x = b.slice(made[-1], axis=1, start=1, stop=positions + 1, out="x")
        last = b.sub("output", modulated_linear, x, c, dim=width, features=latent) * (1 / factors[-1])
        # Mean change over the positions of each cluster: those whose embeddings are equal.
        digits = b.constant([3.0**j for j in range(int(stages))], "f32", out="digits")
        key = b.sum(structure * digits, axes=(2,), keepdims=True, out="key")
        same = b.cast(b.equal(key, b.transpose(key, perm=(0, 2, 1))), to="f32", out="same")
        mean = b.matmul(same, b.op("sub", last, canvas)) / b.sum(same, axes=(2,), keepdims=True)
        return last, dense(b, "head", mean, vocabulary, True, "xavier", out="logits"), *features

    return forward
