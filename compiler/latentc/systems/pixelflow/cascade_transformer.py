"""A transformer over image patches at several resolutions: PixelFlow.

The blocks are those of a patch_transformer; the network has a method per resolution and is conditioned on its size.
Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, image
from latentc.components.kit.tokens import joined
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.parts import Norm, Positions, Problem, Spec, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class CascadeTransformer(PatchBlocks):
    """Transformer over patches of an image at several resolutions (PixelFlow, Chen et al. 2025, arXiv:2504.07963).

    Takes x f32[B, C, H, W] at any of them, t f32[B], its conditions, and the number of patches per side f32[B]; returns
    f32[B, C_out, H, W]. The embeddings of time, vectors and that number are added; condition tokens need a block
    condition that attends to them.
    """

    kind: Literal["cascade_transformer"]
    stages: int = Field(
        4, gt=0, le=16, description="number of resolutions, each twice the previous; the last is the data's"
    )
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(
        description="position encoding, which must be rotary"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "cascade_transformer",
        "stages": 2,
        "width": 16,
        "depth": 1,
        "patch": 2,
        "positions": {"kind": "rope_2d"},
        "block": {**Block.EXAMPLE, "norm": {"kind": "layer_norm"}, "condition": {"kind": "adaln_zero"}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_stages"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square arrays [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % (self.patch << (self.stages - 1)):
            least = shape[1] >> (self.stages - 1)
            whole = least << (self.stages - 1) == shape[1]
            fits = [d for d in range(1, least + 1) if whole and least % d == 0]
            message = f"patches of {self.patch} do not tile a side of {shape[1]} halved {self.stages - 1} times"
            mend = f"choose one of {', '.join(map(str, fits))}" if fits else "use fewer `stages`"
            yield Problem(("patch",), message, mend)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.problems_of_conditions(spec)
        if not (isinstance(self.positions, Positions) and self.positions.ROTARY):
            message = f"`{self.positions.kind}` positions fit only one resolution"
            yield Problem(("positions",), message, "use `{kind: rope_2d}`")
        yield from self.block.problems_of_condition(self.kind, "a vector", tokens=True)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, _ = spec.data.shape
        static = self.static_of_square(spec, out_channels)
        entries, methods = self.entries(spec), {}
        for stage in range(self.stages):
            halvings = self.stages - 1 - stage
            method, side = f"stage_{stage}" if halvings else "forward", size >> halvings
            state, time = Port("x", f32(B, channels, side, side), "state"), Port("t", f32(B), "time")
            ports = (state, time, *ports_of(entries), Port("side", f32(B), "condition"))
            body = _network(self, spec.time, entries, method, halvings)
            methods[method] = add_method(mb, name, method, body, ports, static)
        return Network(name, methods, self.PROVIDES, sizes={"patch": self.patch})


@cache
def _network(
    config: CascadeTransformer, time: TimeEmbedding, entries: tuple[Entry, ...], method: str, halvings: int
) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(config.positions, Positions)
    positions = config.positions
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("CascadeTransformer", method, x="B channels S S" if halvings else "B channels size size")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *others: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts the velocity at x and time t, given the conditions, at one of the resolutions."""
        *conditions, side = others
        full = size // patch
        grid = full // 2**halvings if halvings else full
        embedded = [time.vector(b, "t_embedder", t, width), time.vector(b, "size_embedder", side, width)]
        cond = []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "tokens":
                cond.append(entry.tokens(b, entry.prefix, operands, width, static, condition.takes_any_width))
            else:
                embedded.append(entry.vector(b, entry.prefix, operands, width, static))
        x = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", Named(grid**2, "T"))
        rotary = positions.rotary(b, width // static.get("heads", 1), full, 0)
        rotary = tuple(_corner(b, table, full, grid, part) for table, part in zip(rotary, ("cos", "sin"), strict=True))
        c = summed(b, "c", embedded)
        sizes, context = config.block.own(width, static), joined(b, cond)
        sizes |= {"context": len(context)} if condition.takes_tokens else {}
        shared = condition.shared(b, c, width)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, shared, *context, *rotary, dim=width, **sizes)
        features = patch * patch * out_channels
        x = b.sub("final_layer", _final_layer(config, norm), x, c, dim=width, features=features)
        return image(b, x, out_channels, grid, patch)

    return forward


@cache
def _final_layer(config: CascadeTransformer, norm: Norm) -> BlockBody:
    @module_class("FinalLayer")
    def forward(b: Builder, x: Var, c: Var, *, dim: int, features: int) -> Var:
        """Normalises, modulates and projects the tokens."""
        shift, scale = config.block.parts()[3].final_modulation(b, c, dim)
        x = norm.apply(b, "norm_final", x) * (scale + 1.0) + shift
        return dense(b, "linear", x, features, True, "zeros", out="x")

    return forward


def _corner(b: Builder, table: Var, full: int, grid: int, name: str) -> Var:
    """The rows of a table over a square grid of side `full` that belong to its first corner of side `grid`."""
    x = b.reshape(table, shape=(full, full, table.shape[1]), out=name)
    for axis in (0, 1):
        x = b.slice(x, axis=axis, start=0, stop=grid, out=name)
    return b.reshape(x, shape=(Named(grid**2, "T"), table.shape[1]), out=name)
