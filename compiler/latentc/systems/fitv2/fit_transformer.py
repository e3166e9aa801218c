"""FiT: a transformer over the patches of images of any size and aspect ratio.

Symbols: B batch, C channels, T or L patches, P patch side, D width, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition, Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.conditions.array import ArrayGiven
from latentc.components.contract import Network, Port
from latentc.components.decoding import FORWARD, MASKED
from latentc.components.kit.patches import patchify, unpatchify
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import BlockCondition, Norm, Problem, Spec, a_divisor, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.fitv2.patch_grid import Places, places


class Extrapolation(Closed):
    """How rotary frequencies change for grids larger than those of training (FiT, Lu et al. 2024, arXiv:2402.12376)."""

    method: Literal["linear", "ntk", "ntk_by_side", "ntk_by_area", "ntk_by_parts", "yarn"] = Field(
        description="linear: positions are interpolated; ntk: the base grows; ntk_by_side and ntk_by_area: and cosines "
        "and sines too, with the longer side or the area; ntk_by_parts, yarn: low frequencies only"
    )
    trained: int = Field(16, gt=1, le=65_536, description="rows and columns of the largest square grid in training")
    separate: bool = Field(True, description="each axis by its own side; false: both by the longer one")


def size_conditions(conditions: Mapping[str, Condition], spec: Spec) -> dict[str, ArrayGiven]:
    """The conditions that can be the rows and columns of an image in patches: arrays of two numbers."""
    found = {name: one for name, one in conditions.items() if isinstance(one, ArrayGiven)}
    return {name: one for name, one in found.items() if one.shape(name, spec) == (2,)}


class FitTransformer(PatchBlocks):
    """Transformer over the patches of images of any size (FiTv2, Wang et al. 2024, arXiv:2410.13925).

    Takes x, t f32[B] and its conditions as vectors; returns an array like x. x is an image f32[B, C, H, W], square or
    not; or a padded sequence of patches f32[B, C P P, L], whose samples differ in size: a condition of kind `array`
    then has the rows and columns of each image, in patches. Real patches attend to real ones; padding is returned as
    zeros. Both forms have the same weights.
    """

    kind: Literal["fit_transformer"]
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest wavelength of positions")
    extrapolation: Extrapolation | None = Field(
        None, description="changes of the rotary frequencies for images; null: those of training"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "fit_transformer",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "block": {
            **Block.EXAMPLE,
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_lora", "rank": 4},
        },
    }
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape or ()
        sizes = size_conditions(self.takes(spec), spec)
        others = [n for n, one in self.takes(spec).items() if self.form_of(one) == "array" and n not in sizes]
        if len(shape) == 2:
            yield from self._problems_of_sequence(shape, sizes)
        elif len(shape) != 3:
            message = f"a {self.kind} takes images [C, H, W] or sequences of patches [C P P, L], not {spec.data.words}"
            yield Problem((), message)
        else:
            if shape[1] % self.patch or shape[2] % self.patch:
                message = f"patches of {self.patch} do not tile {shape[1]} by {shape[2]}"
                yield Problem(("patch",), message, a_divisor(shape[1], shape[2]))
            if sizes:
                message = f"condition `{next(iter(sizes))}` gives a size, but all images have the same"
                yield Problem((), message, "leave it out, or use sequences of patches")
        if others:
            message = f"condition `{others[0]}` enters as an array, which must be two numbers, rows and columns"
            yield Problem((), message, "list only the conditions it takes in `conditions`")
        if self.block.spatial:
            yield Problem(("block",), "patches need not be a square, but a part of the block needs one")
        yield from self.block.problems_of_width(self.width, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, block=Rope2d(kind="rope_2d"))
        head = self.block.parts()[0].head_size(self.width)
        if self.extrapolation is not None and head < 8:
            message = f"extrapolation needs heads of 8 channels or more, but these have {head}"
            yield Problem(("extrapolation",), message, "use fewer heads")
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector")

    def _problems_of_sequence(self, shape: tuple[int, ...], sizes: Mapping[str, ArrayGiven]) -> Iterator[Problem]:
        if shape[0] % self.patch**2:
            message = f"{shape[0]} channels are no patches of {self.patch} by {self.patch}"
            yield Problem(("patch",), message, f"use a multiple of {self.patch**2}, or another patch")
        if len(sizes) != 1:
            message = f"padded sequences need one condition with the size of each image, but there are {len(sizes)}"
            yield Problem((), message, "add `conditioning.size: {kind: array}`, with two numbers: rows and columns")
        if self.extrapolation is not None:
            message = "frequencies are extrapolated for images of one size, not for sequences whose samples differ"
            yield Problem(("extrapolation",), message, "leave it out, or use images `data.shape: [C, H, W]`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        channels, *space = spec.data.shape
        entries = self.entries(spec)
        sides = {"length": space[0]} if len(space) == 1 else {"height": space[0], "across": space[1]}
        static = {
            **sides,
            **({} if len(space) == 1 else {"patch": self.patch}),
            "channels": channels,
            **self.block_sizes(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        ports = (Port("x", f32(B, channels, *space), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        body = _network(self, spec.time, entries, len(space) == 1)
        forward = add_method(mb, name, "forward", body, ports, static)
        return Network(name, {"forward": forward}, self.provides(spec))

    def tables(self, b: Builder, head: Any, rows: Any, columns: Any) -> tuple[Var, ...]:
        """Cosines and sines f32[T, d / 2] of a grid of patches."""
        args: dict[str, Any] = {"head_dim": head, "rows": rows, "columns": columns, "base": self.base}
        args |= {} if self.extrapolation is None else self.extrapolation.model_dump()
        table = f32(Named(rows * columns, "T"), head // 2)
        return tuple(
            b.param(f"freqs_{part}", table, "rope_2d_extrapolated", "buffer", **args, part=part)
            for part in ("cos", "sin")
        )

    def tables_of(self, b: Builder, found: Places, head: Any, length: Any) -> tuple[Var, ...]:
        """Cosines and sines f32[B, 1, L, d / 2] of the patches of padded sequences."""
        args: dict[str, Any] = {"head_dim": head // 2, "length": length, "base": self.base}
        tables = []
        for part in ("cos", "sin"):
            line = b.param(f"freqs_{part}", f32(length, head // 4), "rope_1d", "buffer", **args, part=part)
            both = b.concat(b.embedding(line, found.row), b.embedding(line, found.column), axis=2)
            batch = found.row.shape[0]
            tables.append(b.reshape(both, shape=(batch, 1, length, head // 2), out=part))
        return tuple(tables)


@cache
def _network(config: FitTransformer, time: TimeEmbedding, entries: tuple[Entry, ...], sequence: bool) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "xavier", MASKED if sequence else FORWARD)

    @module_class("FiT", x="B channels length" if sequence else "B channels height across")
    def network(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        length: int = 0,
        height: int = 0,
        across: int = 0,
        patch: int = 1,
        **static: Any,
    ) -> Var:
        vectors = [time.vector(b, "t_embedder", t, width)]
        arrays: list[Var] = []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "array":
                arrays += operands
            else:
                vectors.append(entry.vector(b, entry.prefix, operands, width, static))
        c = summed(b, "c", vectors)
        head = static.get("head_width", width // config.block.heads(static))
        more: tuple[Var, ...] = ()
        if sequence:
            tokens = b.transpose(x, perm=(0, 2, 1), out="tokens")
            found = places(b, arrays[0], length)
            of_queries, of_keys = (
                b.reshape(found.real, shape=(x.shape[0], 1, *shape)) for shape in ((length, 1), (1, length))
            )
            more = (b.equal(of_queries, of_keys, out="mask"), *config.tables_of(b, found, head, length))
        else:
            rows, columns = height // patch, across // patch
            tokens = patchify(b, x, patch, "tokens", Named(rows * columns, "T"))
            more = config.tables(b, head, rows, columns)
        h = dense(b, "x_embedder", tokens, width, True, "xavier", out="x")
        shared = condition.shared(b, c, width)
        for name in items("blocks", depth):
            h = b.sub(name, block, h, shared, *more, dim=width, **config.block.own(width, static))
        size = out_channels if sequence else out_channels * patch**2
        h = b.sub("final_layer", _final_layer(condition, norm), h, c, dim=width, features=size, out="x")
        if not sequence:
            return unpatchify(b, h, (out_channels, height, across), patch=patch)
        real = b.reshape(found.real, shape=(x.shape[0], 1, length), out="real")
        return b.mul(b.transpose(h, perm=(0, 2, 1)), real, out="x")

    network.body.__doc__ = "Predicts from noisy x at time t, given the conditions."
    if sequence:
        network.body.__doc__ += " Padding of the sequences stays apart, and is returned as zeros."
    return network


@cache
def _final_layer(condition: BlockCondition, norm: Norm) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, c: Var, *, dim: int, features: int) -> Var:
        """Normalises, modulates and projects the tokens."""
        return dense(b, "linear", modulated(b, condition, norm, x, c, dim), features, True, "zeros", out="x")

    return final
