"""How parameters are initialised: one numpy function per kind, `(rng, shape, **args) -> float64 array`.

Arguments are numbers that do not depend on sizes (a gain, a standard deviation) or sizes by name, so that blocks that
differ only in size have the same initialiser. Buffers use the deterministic kinds, which ignore `rng`, so that they can
be computed if a checkpoint lacks them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape)


def count(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Zeros that training counts up: a buffer in its checkpoints, which nothing reads in inference."""
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.ones(shape)


def constant(rng: np.random.Generator, shape: tuple[int, ...], value: float) -> Array:
    return np.full(shape, value)


def eye(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Ones where row and column of a matrix are the same, zeros elsewhere."""
    rows, columns = shape
    return np.asarray(np.eye(rows, columns))


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float = 1.0) -> Array:
    return rng.standard_normal(shape) * std


def uniform(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    """U(-bound, bound)."""
    return rng.uniform(-bound, bound, shape)


def uniform_between(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    """U(low, high)."""
    return rng.uniform(low, high, shape)


def fans(shape: tuple[int, ...], of: str) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight [out, in, *kernel].

    `of`: "kernel" counts the kernel size in both, as torch.nn.init does; "matrix" treats the weight as the matrix
    [out, in * kernel]; "each" is for stacks of weights and gives the fans of one of them.
    """
    if of == "each":
        return fans(shape[1:], "kernel")
    fan_in = math.prod(shape[1:])
    return fan_in, shape[0] if of == "matrix" else shape[0] * math.prod(shape[2:])


def xavier_uniform(rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.0, of: str = "kernel") -> Array:
    """Glorot and Bengio 2010: U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out))."""
    return rng.uniform(-1, 1, shape) * gain * math.sqrt(6 / sum(fans(shape, of)))


def xavier_normal(rng: np.random.Generator, shape: tuple[int, ...], gain: float = 1.0, of: str = "kernel") -> Array:
    """Glorot and Bengio 2010: N(0, s^2), s = gain * sqrt(2 / (fan_in + fan_out))."""
    return rng.standard_normal(shape) * gain * math.sqrt(2 / sum(fans(shape, of)))


def kaiming_uniform(
    rng: np.random.Generator, shape: tuple[int, ...], gain: float = math.sqrt(2), mode: str = "fan_in"
) -> Array:
    """He et al. 2015: U(-a, a), a = gain * sqrt(3 / fan)."""
    return rng.uniform(-1, 1, shape) * gain * math.sqrt(3 / fans(shape, "kernel")[mode == "fan_out"])


def kaiming_normal(
    rng: np.random.Generator, shape: tuple[int, ...], gain: float = math.sqrt(2), mode: str = "fan_in"
) -> Array:
    """He et al. 2015: N(0, s^2), s = gain / sqrt(fan)."""
    return rng.standard_normal(shape) * gain / math.sqrt(fans(shape, "kernel")[mode == "fan_out"])


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Saxe et al. 2014: orthonormal rows or columns, whichever are fewer, of the weight as a matrix [out, rest]."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))
    return np.asarray((q if rows >= columns else q.T).reshape(shape))


def linear_default(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Array:
    """PyTorch's default of Linear and Conv: U(-a, a), a = 1 / sqrt(fan_in)."""
    return np.asarray(rng.uniform(-1, 1, shape) / np.sqrt(fan_in))


def linspace(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Evenly spaced from `low` to `high` along the last axis, both included."""
    return np.broadcast_to(np.linspace(low, high, shape[-1]), shape).copy()


def log_arange(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """log(1), log(2), … along the last axis: -exp of it are the decays of S4D-Real (Gu et al. 2022)."""
    return np.broadcast_to(np.log(np.arange(1, shape[-1] + 1, dtype=np.float64)), shape).copy()


def directions(rng: np.random.Generator, shape: tuple[int, ...], heads: int, maps: int, points: int) -> Array:
    """Offsets of points around a query (Deformable DETR): [heads * maps * points * 2], (column, row) in pixels.

    Each head looks in a direction of its own, at distances 1, 2, … along the larger axis, alike in every map.
    """
    angle = np.arange(heads) * (2 * math.pi / heads)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    unit /= np.abs(unit).max(axis=1, keepdims=True)
    each = unit[:, None, None] * np.arange(1, points + 1)[:, None]
    return np.broadcast_to(each, (heads, maps, points, 2)).reshape(shape)


def rotations(rng: np.random.Generator, shape: tuple[int, ...], heads: int, base: float) -> Array:
    """Frequencies along x and y of pairs of channels (Heo et al. 2024): [2, heads * d / 2].

    Those of a head are the vectors (m, 0), then (0, m), rotated by an angle of the head's, for m from 1 down.
    """
    half = math.prod(shape) // (2 * heads)
    size = 1.0 / base ** (np.arange(half // 2, dtype=np.float64) * 4 / (2 * half))
    angle = rng.uniform(0, 2 * math.pi, (heads, 1))
    x = np.concatenate([size * np.cos(angle), -size * np.sin(angle)], axis=1)
    y = np.concatenate([size * np.sin(angle), size * np.cos(angle)], axis=1)
    return np.stack([x, y]).reshape(shape)


def disc(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> Array:
    """Points [n, 2] uniformly in a disc around 0 (StyleGAN3's frequencies)."""
    direction = rng.standard_normal(shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(direction * np.sqrt(rng.uniform(0, 1, (shape[0], 1))) * radius)


def softplus_inverse(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Numbers whose softplus is distributed log-uniformly between low and high (Gu and Dao 2023)."""
    value = np.exp(rng.uniform(math.log(low), math.log(high), shape))
    return np.asarray(np.log(np.expm1(value)))


def _frequencies(size: int, base: float) -> Array:
    """f64[size / 2]: base^(-2 k / size)."""
    return np.asarray(1.0 / base ** (2.0 * np.arange(size // 2) / size))


def _of_grid(angle: Array) -> tuple[Array, Array]:
    """Angles [grid, n] of rows or columns as those [grid, grid, n] of each place: by its row, and by its column."""
    rows, columns = np.broadcast_arrays(angle[:, None], angle[None])
    return rows, columns


def _part(angle: Array, part: str) -> Array:
    return np.asarray(np.cos(angle) if part == "cos" else np.sin(angle))


def sincos_1d(rng: np.random.Generator, shape: tuple[int, ...], width: int, length: int, base: float) -> Array:
    """Fixed positions of a sequence (Vaswani et al. 2017): [length, width]; the first half are sines."""
    angle = np.arange(length)[:, None] * _frequencies(width, base)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).reshape(shape)


def sincos_2d(rng: np.random.Generator, shape: tuple[int, ...], width: int, grid: int, step: float = 1.0) -> Array:
    """Fixed 2-D positions (MAE, DiT): [grid*grid, width]; first half encodes the column, second the row.

    `step`: distance of neighbouring rows, and columns, in the units of the frequencies.
    """
    rows, columns = _of_grid(step * np.arange(grid)[:, None] * _frequencies(width // 2, 10000.0))
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=-1).reshape(shape)


def rope_2d(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    head_dim: int,
    grid: int,
    prefix: int,
    base: float,
    part: str,
    first: str = "row",
) -> Array:
    """2-D rotary table (LlamaGen): [prefix + grid*grid, head_dim / 2], cos or sin by `part`.

    The first half of the pairs rotates with `first`, row or column, the second with the other. The `prefix` leading
    (class) tokens have cos = sin = 0 as published, so their queries and keys are zero.
    """
    half = head_dim // 2
    rows, columns = _of_grid(np.arange(grid)[:, None] * _frequencies(half, base))
    halves = [rows, columns] if first == "row" else [columns, rows]
    table = _part(np.concatenate(halves, axis=-1).reshape(grid * grid, half), part)
    return np.concatenate([np.zeros((prefix, half)), table]).reshape(shape)


def cosines_2d(rng: np.random.Generator, shape: tuple[int, ...], grid: int, frequencies: int) -> Array:
    """Cosines of places in a square (PixNerd): [grid*grid, frequencies^2].

    cos(pi x f) cos(pi y g) / (1 + f g), with the column x and the row y from 0 to 1, and f and g, the faster index,
    from 0 to `frequencies`.
    """
    f = np.linspace(0, frequencies, frequencies)
    rows, columns = _of_grid(np.cos(np.linspace(0, 1, grid)[:, None] * f * math.pi))
    return np.asarray((columns[..., :, None] * rows[..., None, :] / (1 + np.outer(f, f))).reshape(shape))


def rope_2d_spread(
    rng: np.random.Generator, shape: tuple[int, ...], head_dim: int, grid: int, base: float, span: float, part: str
) -> Array:
    """2-D rotary table (DDT): [grid*grid, head_dim / 2], cos or sin by `part`.

    Rows and columns are at `grid` places evenly from 0 to `span`. Pairs rotate with column and row in turn.
    """
    rows, columns = _of_grid(np.linspace(0, span, grid)[:, None] * _frequencies(head_dim // 2, base))
    return _part(np.stack([columns, rows], axis=-1).reshape(shape), part)


def extrapolated_frequencies(size: int, base: float, method: str, factor: float, trained: int) -> Array:
    """f64[size / 2]: rotary frequencies of a side `factor` >= 1 times the one trained on, of `trained` patches.

    `linear`: positions are interpolated (Chen et al. 2023); `ntk`: the base grows (bloc97 2023); `ntk_by_parts`:
    between both and no change, by the turns within `trained` patches; `yarn`: between linear and no change (Peng et
    al. 2023, arXiv:2309.00071). FiT's numbers of turns, 2402.12376.
    """
    own = _frequencies(size, base)
    slow = own / factor

    def share(fast: float, few: float) -> Array:
        """1 for frequencies with more than `fast` turns within the trained side, 0 for those with less than `few`."""
        low, high = (size * math.log(trained / (n * 2 * math.pi)) / (2 * math.log(base)) for n in (fast, few))
        start, stop = float(max(math.floor(low), 0)), float(min(math.ceil(high), size - 1))
        stop += 0.001 * (start == stop)
        return np.asarray(1 - np.clip((np.arange(size // 2) - start) / (stop - start), 0, 1))

    if method == "none":
        return own
    if method == "linear":
        return np.asarray(slow)
    if method == "yarn":
        kept = share(32, 1)
        return np.asarray(slow * (1 - kept) + own * kept)
    grown = _frequencies(size, base * factor ** (size / (size - 2)))
    if method == "ntk_by_parts":
        kept = share(1.25, 0.75)
        mixed = slow * (1 - kept) + grown * kept
        kept = share(16, 2)
        return np.asarray(mixed * (1 - kept) + own * kept)
    return grown


def _amplitude(method: str, rows: int, columns: int, trained: int) -> float:
    """The factor of cosines and sines beside `extrapolated_frequencies`."""
    longer = max(rows, columns)
    if method == "yarn":
        return 0.1 * math.log(max(longer / trained, 1.0)) + 1
    if method in ("ntk_by_side", "ntk_by_area"):
        seen, known = (2 * longer, trained) if method == "ntk_by_side" else (2 * rows * columns, trained**2)
        return math.sqrt(math.log(seen) / math.log(known)) if seen > known else 1.0
    return 1.0


def rope_2d_extrapolated(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    head_dim: int,
    rows: int,
    columns: int,
    base: float,
    part: str,
    method: str = "none",
    trained: int = 1,
    separate: bool = False,
) -> Array:
    """2-D rotary table (FiT): [rows*columns, head_dim / 2], cos or sin by `part`.

    The first half of the pairs rotates with the row, the second with the column. Frequencies of a grid larger than that
    trained on, `trained` by `trained`, are changed by `method`, see `extrapolated_frequencies`: those of each axis by
    its own side if `separate`, else by the longer one.
    """
    half = head_dim // 2
    angles = []
    for side in (rows, columns):
        factor = max((side if separate else max(rows, columns)) / trained, 1.0)
        angles.append(np.arange(side)[:, None] * extrapolated_frequencies(half, base, method, factor, trained))
    row, column = np.broadcast_arrays(angles[0][:, None], angles[1][None])
    table = _part(np.concatenate([row, column], axis=-1).reshape(shape), part)
    return np.asarray(table * _amplitude(method, rows, columns, trained))


def rope_prefix(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    head_dim: int,
    grid: int,
    prefix: int,
    base: float,
    pairs: int,
    side: float,
    part: str,
    columns: int | None = None,
    frames: int = 1,
) -> Array:
    """Rotary table (STARFlow): [prefix + frames*grid*columns, head_dim / 2], cos or sin by `part`.

    Of the pairs a half of all but `pairs` rotates with the row, a half with the column, the last `pairs` with the place
    in the prefix and with the number of the frame. Places, rows and columns of a square go from 0 to `side`, those of
    other grids by the same steps as of a square of as many cells.
    """
    columns = grid if columns is None else columns
    half, step = head_dim // 2 - pairs, side / (grid * columns) ** 0.5
    along, late = _frequencies(half, base), _frequencies(2 * pairs, base)
    places = np.arange(prefix)[:, None] * (side / max(prefix, 1)) * late
    axes = (
        np.arange(frames)[:, None] * late,
        np.arange(grid)[:, None] * step * along,
        np.arange(columns)[:, None] * step * along,
    )
    frame, row, column = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None]
    shaped = [np.broadcast_to(a, (frames, grid, columns, a.shape[-1])) for a in (row, column, frame)]
    cells = np.concatenate(shaped, axis=-1).reshape(frames * grid * columns, -1)
    first = np.concatenate([np.zeros((prefix, half)), places], axis=1)
    return _part(np.concatenate([first, cells]), part).reshape(shape)


def rope_1d(
    rng: np.random.Generator, shape: tuple[int, ...], head_dim: int, length: int, base: float, part: str
) -> Array:
    """Rotary table of a sequence (Su et al. 2021): [length, head_dim / 2], cos or sin by `part`."""
    return _part(np.arange(length)[:, None] * _frequencies(head_dim, base), part).reshape(shape)


INITS: dict[str, Callable[..., Array]] = {
    f.__name__: f
    for f in (
        *(zeros, ones, eye, constant, normal, uniform, orthogonal, linear_default),
        *(sincos_1d, sincos_2d, cosines_2d, rope_1d, rope_2d, rope_2d_spread),
        rope_2d_extrapolated,
        *(rope_prefix, count, directions, disc, linspace, log_arange, rotations, softplus_inverse, uniform_between),
        *(xavier_uniform, xavier_normal, kaiming_uniform, kaiming_normal),
    )
}
DETERMINISTIC = {"zeros", "count", "ones", "constant", "sincos_1d", "sincos_2d"}
DETERMINISTIC |= {"cosines_2d", "rope_1d", "rope_2d", "rope_2d_spread", "rope_2d_extrapolated", "rope_prefix"}
