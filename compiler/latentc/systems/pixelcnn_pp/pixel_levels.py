"""The levels of PixelCNN++: blocks at one resolution, on the way down to the coarsest level and back up.

Each is built for whole maps, for one row of the stream `u`, and for one cell of the stream `ul`. Symbols: as in
`_pixel_streams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from latentc.components.kit.stacks import entry, stacked
from latentc.ir.builder import BlockBody, Builder, Var, module_class
from latentc.systems.pixelcnn.pixel_streams import cell_block, column, map_block, row_block


@cache
def map_level(blocks: int, up: bool, conditioned: bool, normed: bool, dropout: float) -> BlockBody:
    """`up`: from what enters, u and ul after every block; else from skips of u, then of ul, the last of both."""

    @module_class("UpLevel" if up else "DownLevel")
    def level(b: Builder, u: Var, ul: Var, *others: Var, width: int) -> tuple[Var, ...]:
        """Blocks of both streams at one resolution."""
        skips, c = (others[: len(others) - conditioned], others[len(others) - conditioned :])
        us, uls = [], []
        for k in range(blocks):
            a = () if up else (skips[k],)
            sizes = {"width": width} if up else {"width": width, "beside": width}
            u = b.sub(
                f"u_stream.{k}", map_block("u", not up, conditioned, normed, dropout), u, *a, *c, out="u", **sizes
            )
            beside = u if up else b.concat(u, skips[blocks + k], axis=1, out="beside")
            sizes = {"width": width, "beside": width if up else 2 * width}
            body = map_block("ul", True, conditioned, normed, dropout)
            ul = b.sub(f"ul_stream.{k}", body, ul, beside, *c, out="ul", **sizes)
            us.append(u)
            uls.append(ul)
        return (*us, *uls) if up else (u, ul)

    return level


@cache
def row_level(blocks: int, up: bool, conditioned: bool, normed: bool) -> BlockBody:
    """Rows of `u` after every block [N, B, C, 1, W], and the inputs of convolutions, which the next row needs."""

    @module_class("UpLevel" if up else "DownLevel", "row")
    def level(b: Builder, u: Var, above: Var, *others: Var, width: int) -> tuple[Var, Var]:
        """The blocks of the stream `u` for one row: it after every block, and what the next row needs."""
        skips, c = (others[: len(others) - conditioned], others[len(others) - conditioned :])
        us, kept = [], []
        for k in range(blocks):
            own = (entry(b, above, 2 * k, "above"), entry(b, above, 2 * k + 1, "above_hidden"))
            x, a = u, () if up else (skips[k],)
            sizes = {"width": width} if up else {"width": width, "beside": width}
            body = row_block(not up, conditioned, normed)
            u, hidden = b.sub(f"u_stream.{k}", body, x, *own, *a, *c, out="u hidden", **sizes)
            kept += [x, hidden]
            us.append(u)
        return stacked(b, us, "u"), stacked(b, [*kept, u], "kept")

    return level


@cache
def cell_level(blocks: int, up: bool, conditioned: bool, normed: bool) -> BlockBody:
    """Cells of `ul` after every block [N, B, C], and the columns of inputs, which the next cell needs."""

    @module_class("UpLevel" if up else "DownLevel", "cell")
    def level(b: Builder, ul: Var, us: Var, above: Var, left: Var, *others: Var, width: int) -> tuple[Var, Var]:
        """The blocks of the stream `ul` for one cell: it after every block, and what the next cell needs."""
        skips, c = (others[: len(others) - conditioned], others[len(others) - conditioned :])
        uls: list[Var] = []
        columns: list[Var] = []
        for k in range(blocks):
            stacks = ((above, "above"), (left, "left"))
            own = [entry(b, stack, 2 * k + i, name) for stack, name in stacks for i in (0, 1)]
            u = entry(b, us, k, "u")
            beside = u if up else b.concat(u, skips[k], axis=1, out="beside")
            sizes = {"width": width, "beside": width if up else 2 * width}
            operands = (ul, *own, beside, *c)
            ul, *both = b.sub(
                f"ul_stream.{k}", cell_block(True, conditioned, normed), *operands, out="ul own inside", **sizes
            )
            columns += both
            uls.append(ul)
        if up:  # the coarser level looks at four of the last block
            columns.append(column(b, entry(b, above, 2 * blocks, "above"), ul))
        return stacked(b, uls, "ul"), stacked(b, columns, "columns")

    return level


def last(b: Builder, stack: Var, out: str) -> Var:
    """The last element of a stack."""
    return entry(b, stack, int(stack.shape[0]) - 1, out)


def all_of(b: Builder, stack: Var, out: str) -> list[Var]:
    """The elements of a stack."""
    return [entry(b, stack, i, out) for i in range(int(stack.shape[0]))]


def skips_of(enters: Var, outs: Sequence[Var], top: bool) -> list[Var]:
    """Skip connections of a level in the order of the way back: those of later blocks first, its input last.

    The way back of the coarsest level starts with the last block's output itself.
    """
    order = list(outs[:-1]) if top else list(outs)
    return [*reversed(order), enters]


def length(blocks: int, top: bool) -> int:
    """Blocks of a level on the way back."""
    return blocks if top else blocks + 1
