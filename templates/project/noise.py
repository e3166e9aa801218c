"""Noise that depends on a sample's seed alone: Philox 4x32-10 words, turned into normals by Box-Muller.

The key is the seed (low and high word), the counter (block, index, crc32(stream), 0); block b gives values
4b to 4b + 3. The engines that latentc compiles use the same numbers: a seed is the same picture there.
Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

import math
from statistics import NormalDist
from zlib import crc32

import numpy as np

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def words(seeds, stream: str, count: int, index: int = 0) -> np.ndarray:
    """Random words below 2^32, u64 [len(seeds), 4, ceil(count / 4)]."""
    keys = np.array([int(s) for s in seeds], dtype=np.uint64)[:, None]
    k0, k1 = keys & LOW, keys >> HALF
    shape = (len(keys), -(-count // 4))
    c0 = np.broadcast_to(np.arange(shape[1], dtype=np.uint64), shape)
    c1, c2, c3 = (np.full(shape, v, dtype=np.uint64) for v in (index, crc32(stream.encode()), 0))
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW, (k1 + KEY_STEPS[1]) & LOW
    return np.stack([c0, c1, c2, c3], axis=1)


def normals(seeds, stream: str, shape, index: int = 0) -> np.ndarray:
    """Standard normals, f32 [len(seeds), *shape]."""
    count = math.prod(shape)
    uniform = (words(seeds, stream, count, index).astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))
    angle = 2.0 * math.pi * uniform[:, 1::2]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)  # [B, pair, 2, block]
    values = values.transpose(0, 3, 1, 2).reshape(len(uniform), -1)[:, :count]
    return values.astype(np.float32).reshape(-1, *shape)


def truncated_normals(seeds, stream: str, shape, bound: float) -> np.ndarray:
    """Standard normals between -bound and bound, f32 [len(seeds), *shape]; of no bound, `normals`.

    Each is the inverse of the cumulative distribution at one uniform number.
    """
    if math.isinf(bound):
        return normals(seeds, stream, shape)
    curve, uniform = NormalDist(), uniforms(seeds, stream, shape).astype(np.float64)
    low = curve.cdf(-bound)
    places = low + uniform * (1.0 - 2.0 * low)
    values = np.array([curve.inv_cdf(p) for p in places.ravel().tolist()]).reshape(uniform.shape)
    return np.clip(values, -bound, bound).astype(np.float32)


def uniforms(seeds, stream: str, shape, index: int = 0) -> np.ndarray:
    """Uniforms in the open interval (0, 1), f32 [len(seeds), *shape]."""
    count = math.prod(shape)
    values = words(seeds, stream, count, index).transpose(0, 2, 1).reshape(-1, 4 * -(-count // 4))[:, :count]
    uniform = ((values >> np.uint64(9)).astype(np.float64) + 0.5) * 2.0**-23
    return uniform.astype(np.float32).reshape(-1, *shape)
