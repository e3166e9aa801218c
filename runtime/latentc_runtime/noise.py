"""Counter-based noise: the same seed gives the same numbers on every machine, backend and batch.

One Philox 4x32-10 block turns a key and a counter into four 32-bit words, with no state in between:

    key      (seed mod 2^32, seed >> 32)                 the seed of one sample, 0 <= seed < 2^64
    counter  (block, index, crc32(stream), attempt)      block b holds the values 4b .. 4b+3 of a sample
    uniform  (w >> 9 + 1/2) 2^-23                        one word each; exact in float32, never 0 nor 1
    normal   u = (w + 1/2) 2^-32 in float64, then Box-Muller on the pairs (w0, w1) and (w2, w3):
             sqrt(-2 ln u0) cos(2 pi u1), sqrt(-2 ln u0) sin(2 pi u1), rounded to float32

and one of the ten rounds, with 64-bit products and the key raised by (W0, W1) between rounds, is

    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

A stream names the purpose of the noise ("x" the initial state, "step" the noise of a step, "token" the uniform of a
token). `index` is the step or position. `attempt` is 0 unless a distribution needs more than one word per value. Other
distributions, in rare_distributions.py, use these words too.

Sources: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011; Box and Muller, 1958.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]
Block = tuple[Words, Words, Words, Words]
Seeds = Sequence[int] | NDArray[np.integer[Any]]

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)

# Blocks per piece of work: its arrays (256 KiB) fit in a core's cache, but are large enough that glibc keeps their
# memory. It returns smaller ones to the system at each free, and page faults cost three times the arithmetic.
PIECE = 1 << 15


def normals(seeds: Seeds, stream: str, shape: Sequence[int], index: int | Sequence[int] = 0) -> Floats:
    """Standard normals f32[B, *shape], or f32[N, B, *shape] for N indices.

    `seeds`: int[B], each in [0, 2^64); sample b depends only on `seeds[b]`, not on the rest of the batch.
    Raises ValueError for a seed or index outside its range.
    """
    return _draw(seeds, stream, shape, index, _normals_from_words)


def uniforms(seeds: Seeds, stream: str, shape: Sequence[int], index: int | Sequence[int] = 0) -> Floats:
    """Uniforms in the open interval (0, 1), f32[B, *shape], or f32[N, B, *shape] for N indices.

    Arguments and errors as `normals`.
    """
    return _draw(seeds, stream, shape, index, _uniforms_from_words)


def words(seeds: Seeds, stream: str, shape: Sequence[int], index: int | Sequence[int] = 0, attempt: int = 0) -> Words:
    """Random 32-bit words, u64[B, *shape], or u64[N, B, *shape] for N indices. Arguments and errors as `normals`."""
    return _draw(seeds, stream, shape, index, _words_as_they_are, np.uint64, attempt)


def integers(
    seeds: Seeds, stream: str, shape: Sequence[int], index: int | Sequence[int], high: ArrayLike
) -> NDArray[np.int64]:
    """Integers 0..high-1, high up to 2^32: the upper half of word x high. `high` is one number or f64[B]."""
    limit = np.asarray(high, np.float64).astype(np.uint64)
    limit = limit.reshape(*limit.shape, *[1] * len(shape)) if limit.ndim else limit
    return ((words(seeds, stream, shape, index) * limit) >> HALF).astype(np.int64)


def seed_words(seeds: Seeds) -> Words:
    """Seeds as u64[B]; ValueError unless all are integers in [0, 2^64)."""
    # One by one, because numpy converts a mix with integers from 2^63 on to floats.
    values: list[object] = list(seeds.tolist() if isinstance(seeds, np.ndarray) else seeds)
    words = np.zeros(len(values), np.uint64)
    for row, value in enumerate(values):
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise ValueError(f"seeds must be integers, but {value!r} is not")
        if not 0 <= int(value) < 1 << 64:
            raise ValueError(f"seeds must be in [0, 2^64), but {value} is not")
        words[row] = int(value)
    return words


def philox(counter: Sequence[Words], key: Sequence[Words]) -> Block:
    """Philox 4x32-10: four counter and two key words (values < 2^32 held in u64, broadcast) to four words."""
    c0, c1, c2, c3 = (np.array(c, dtype=np.uint64) for c in np.broadcast_arrays(*counter))
    k0, k1 = (np.asarray(k, dtype=np.uint64) for k in key)
    for _ in range(10):
        product0, product1 = np.multiply(c0, M0, out=c0), np.multiply(c2, M1, out=c2)
        c1 ^= k0
        c1 ^= product1 >> HALF
        c3 ^= k1
        c3 ^= product0 >> HALF
        product0 &= LOW
        product1 &= LOW
        c0, c1, c2, c3 = c1, product1, c3, product0
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


def _draw(
    seeds: Seeds,
    stream: str,
    shape: Sequence[int],
    index: int | Sequence[int],
    values_from_words: Callable[[Block, Any], None],
    dtype: type[np.generic] = np.float32,
    attempt: int = 0,
) -> NDArray[Any]:
    keys = seed_words(seeds)
    indices = np.atleast_1d(np.asarray(index, dtype=np.int64)).astype(np.uint64)
    if indices.size and int(indices.max()) > int(LOW):
        raise ValueError("an index must be in [0, 2^32)")
    size = math.prod(shape)
    # A row is one sample at one index.
    rows = indices.size * keys.size
    row_index, row_key = np.repeat(indices, keys.size), np.tile(keys, indices.size)
    out = np.empty((rows, size), dtype)
    name, last_word = np.array(crc32(stream.encode()), np.uint64), np.array(attempt, np.uint64)

    def fill(piece: tuple[int, int, int, int]) -> None:
        top, bottom, first, last = piece
        key = row_key[top:bottom, None]
        block = np.arange(first, last, dtype=np.uint64)[None, :]
        counter = (block, row_index[top:bottom, None], name, last_word)
        block_words = philox(counter, (key & LOW, key >> HALF))
        values_from_words(block_words, out[top:bottom, 4 * first : 4 * last])

    _for_each(fill, list(_pieces(rows, -(-size // 4))))
    many = (indices.size,) if np.ndim(index) else ()
    return out.reshape(*many, keys.size, *shape)


def _pieces(rows: int, blocks: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut rows x blocks into pieces (row from, row to, block from, block to) of about PIECE blocks."""
    width = max(1, min(blocks, PIECE))
    height = max(1, PIECE // width)
    for top in range(0, rows, height):
        for first in range(0, blocks, width):
            yield top, min(rows, top + height), first, min(blocks, first + width)


def _for_each(work: Callable[[Any], None], pieces: list[tuple[int, int, int, int]]) -> None:
    # numpy releases the GIL, so threads help with large noise; small noise is faster without a pool.
    if len(pieces) < 8:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(min(len(pieces), os.cpu_count() or 1, 16)) as pool:
        for _ in pool.map(work, pieces):
            pass


def _normals_from_words(words: Block, out: Floats) -> None:
    for pair in (0, 2):
        radius = words[pair].view(np.int64) + 0.5
        radius *= 2.0**-32
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        for place, wave in zip((pair, pair + 1), _cos_sin(words[pair + 1]), strict=True):
            wave *= radius
            target = out[:, place::4]  # the last block of a sample may be used in part
            target[...] = wave[:, : target.shape[1]]


# Cosine and sine at the centres of 1024 equal parts of the circle.
_MIDDLES = 2.0 * math.pi * (np.arange(1024) + 0.5) / 1024
_COS, _SIN = np.cos(_MIDDLES), np.sin(_MIDDLES)


def _cos_sin(word: Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cos and sin of 2 pi (word + 1/2) 2^-32 in float64, six times as fast as numpy's.

    The upper ten bits select a part of the circle, the others an angle |a| <= pi / 1024 from its middle, for which
    three terms of the series are exact to 2^-53.
    """
    signed = word.view(np.int64)
    part = signed >> 22
    angle = (signed & 0x3FFFFF) + (0.5 - 2**21)
    angle *= 2.0 * math.pi * 2.0**-32
    square = angle * angle
    cos = square * (1 / 24)
    cos -= 0.5
    cos *= square
    cos += 1.0
    sin = square * (1 / 120)
    sin -= 1 / 6
    sin *= square
    sin += 1.0
    sin *= angle
    middle_cos, middle_sin = _COS.take(part), _SIN.take(part)
    return middle_cos * cos - middle_sin * sin, middle_sin * cos + middle_cos * sin


def _uniforms_from_words(words: Block, out: Floats) -> None:
    for place, word in enumerate(words):
        target = out[:, place::4]
        target[...] = ((word[:, : target.shape[1]] >> np.uint64(9)).astype(np.float64) + 0.5) * 2.0**-23


def _words_as_they_are(words: Block, out: Words) -> None:
    for place, word in enumerate(words):
        target = out[:, place::4]
        target[...] = word[:, : target.shape[1]]
