"""The noise is Philox 4x32-10 exactly, and a sample's noise depends on its seed alone."""

import math
import zlib

import numpy as np
import pytest

from latentc_runtime import noise


def u64(*values):
    return [np.array(v, np.uint64) for v in values]


# The published known-answer vectors of the Random123 distribution (philox4x32, 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    assert tuple(int(w) for w in noise.philox(u64(*counter), u64(*key))) == words


def reference_words(seed, stream, index, block):
    """One block by the definition in the module's docstring, in plain integers."""
    c, k = [block, index, zlib.crc32(stream.encode()), 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, p0 >> 32 ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("seed", [0, 7, 2**32, 2**64 - 1])
def test_values_follow_the_definition(seed):
    words = [w for block in range(3) for w in reference_words(seed, "step", 5, block)]
    u = [(w + 0.5) * 2.0**-32 for w in words]
    expected = []
    for a, b in zip(u[::2], u[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(a))
        expected += [radius * math.cos(2 * math.pi * b), radius * math.sin(2 * math.pi * b)]
    got = noise.normals([seed], "step", (11,), 5)[0]
    np.testing.assert_allclose(got, expected[:11], rtol=1e-7, atol=1e-14)
    got = noise.uniforms([seed], "step", (11,), 5)[0]
    assert got.tolist() == [((w >> 9) + 0.5) * 2.0**-23 for w in words[:11]]


def test_a_sample_does_not_depend_on_its_batch():
    seeds = [3, 2**40, 3, 2**64 - 1]
    for draw in (noise.normals, noise.uniforms):
        batch = draw(seeds, "x", (3, 5, 7), 2)
        assert batch.shape == (4, 3, 5, 7) and batch.dtype == np.float32
        for row, seed in zip(batch, seeds, strict=True):
            np.testing.assert_array_equal(row, draw([seed], "x", (3, 5, 7), 2)[0])


def test_pieces_do_not_show(monkeypatch):
    whole = noise.normals([1, 2, 3], "x", (999,), range(4))
    monkeypatch.setattr(noise, "PIECE", 16)
    np.testing.assert_array_equal(noise.normals([1, 2, 3], "x", (999,), range(4)), whole)


def test_many_indices_are_rows():
    many = noise.uniforms([1, 2], "token", (), range(6))
    assert many.shape == (6, 2)
    for i in range(6):
        np.testing.assert_array_equal(many[i], noise.uniforms([1, 2], "token", (), i))


def test_streams_indices_and_seeds_differ():
    draws = [
        noise.normals([seed], stream, (4096,), index)[0]
        for seed in (0, 1, 2**32)
        for stream in ("x", "step")
        for index in (0, 1)
    ]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / math.sqrt(4096)


def test_normals_are_normal():
    x = noise.normals(range(8), "x", (1 << 17,)).ravel().astype(np.float64)
    n = x.size
    for moment, value, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**moment).mean() - value) < 4.5 * math.sqrt(spread / n)
    # Kolmogorov-Smirnov against the normal distribution; 1.95 is exceeded once in a thousand.
    x.sort()
    cdf = 0.5 * (1 + np.vectorize(math.erf)(x[::64] / math.sqrt(2)))
    assert np.abs(cdf - np.arange(0, n, 64) / n).max() * math.sqrt(n) < 1.95


def test_uniforms_are_uniform_and_open():
    u = noise.uniforms(range(8), "token", (1 << 16,)).ravel()
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
    counts, _ = np.histogram(u, 256, (0, 1))
    assert ((counts - u.size / 256) ** 2 / (u.size / 256)).sum() < 256 + 4.5 * math.sqrt(512)
    words = [np.array([[w]], np.uint64) for w in (0, 0xFFFFFFFF, 0, 0xFFFFFFFF)]
    ends = np.empty((1, 4), np.float32)
    noise._uniforms_from_words(tuple(words), ends)
    assert ends.min() > 0 and ends.max() < 1
    noise._normals_from_words(tuple(words), ends)
    assert np.isfinite(ends).all()


@pytest.mark.parametrize("seeds", [[-1], [2**64], [1.5], [True], ["a"], [[1]]])
def test_seeds_outside_their_range_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds must be"):
        noise.normals(seeds, "x", (1,))


@pytest.mark.parametrize("index", [-1, 2**32])
def test_indices_outside_their_range_are_refused(index):
    with pytest.raises(ValueError, match="index"):
        noise.normals([0], "x", (1,), index)


def test_nothing_asked_is_nothing_made():
    assert noise.normals([], "x", (3,)).shape == (0, 3)
    assert noise.normals([1], "x", (0,)).shape == (1, 0)
    assert noise.uniforms([1], "x", (2,), []).shape == (0, 1, 2)
