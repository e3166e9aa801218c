"""A flow of structure embeddings given a canvas: NVG's structure generator.

A file of its own because its state is a noisy embedding of clusters, of which the channels of earlier stages are known,
and its sequence holds the canvas as well.

Symbols: B batch, L positions, K stages, Z channels of the latents, D width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeEmbedding, ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B
from latentc.systems.nvg.granule_blocks import angles, angles_of_class, modulated_linear
from latentc.systems.nvg.granule_network import SMALL, GranuleNetwork, conditioned, run


class StructureTransformer(GranuleNetwork):
    """Predicts the velocity of a noisy structure embedding (NVG, Wang et al. 2025, arXiv:2508.12811).

    `forward`: structure f32[B, L, K], time f32[B], canvas f32[B, L, Z], stage i64[B], the conditions -> velocity f32[B,
    L, K]. Here the embedding consists of the numbers -1, 0 and 1. Those of stages before `stage`, from 1 on, are known,
    and serve as the positions of canvas and structure, which follow the class in the sequence.
    """

    kind: Literal["structure_transformer"]
    TIME: ClassVar[bool] = True
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_structure"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "structure_transformer", **SMALL}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        positions, entries = self.side**2, self.entries(spec)
        assert isinstance(spec.time, TimeEmbedding)
        ports = (
            Port("structure", f32(B, positions, self.stages), "state"),
            Port("t", f32(B), "time"),
            Port("canvas", f32(B, positions, self.latent), "state"),
            Port("stage", i64(B), "position", self.stages + 1),
            *ports_of(entries),
        )
        static = {"stages": self.stages, **self.sizes(spec)}
        forward = add_method(mb, name, "forward", _forward(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward(config: StructureTransformer, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    positions = config.side**2

    @module_class("StructureTransformer", structure="B L stages", canvas="B L latent")
    def forward(
        b: Builder,
        structure: Var,
        t: Var,
        canvas: Var,
        stage: Var,
        *conditions: Var,
        stages: int,
        latent: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        **static: Any,
    ) -> Var:
        """The velocity of noisy structure at time t, given the canvas."""
        batch = canvas.shape[0]
        text, c = conditioned(b, entries, conditions, stage - 1, stages - 1, width, static)
        c = b.add(c, time.vector(b, "t_embedder", t * 1000.0, width), out="c")
        x = b.concat(
            b.reshape(text, shape=(batch, 1, width)),
            dense(b, "embed_canvas", canvas, width, True, "xavier"),
            dense(b, "embed_structure", structure, width, True, "xavier"),
            axis=1,
            out="x",
        )
        known = b.less(b.arange(stages), b.reshape(stage - 1, shape=(batch, 1, 1)), out="known")
        place = b.where(known, structure + 1.0, 1.0, out="place")
        of_kinds = (angles(b, place, *config.channels, kind) for kind in (2, 0))
        of_class = angles_of_class(b, canvas, *config.channels, config.stages)
        turn = b.concat(of_class, *of_kinds, axis=1, out="turn")
        x = run(b, x, c, turn, config.drop_path, width, depth, heads, hidden)[-1]
        x = b.slice(x, axis=1, start=positions + 1, stop=2 * positions + 1, out="x")
        return b.sub("output", modulated_linear, x, c, dim=width, features=stages, out="velocity")

    return forward
