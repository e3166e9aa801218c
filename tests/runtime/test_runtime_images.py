"""Samples as pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from latentc_runtime import BundleError, grid, png
from latentc_runtime.images import images_from_samples
from latentc_runtime.manifest import Output, Tokens

PICTURE = Output((3, 1, 2), "f32", (-1.0, 1.0))


def test_arrays_are_scaled_rounded_and_clipped():
    samples = np.array([[-1, 1], [0, 7], [-9, 0.5]], np.float32).reshape(1, 3, 1, 2)
    assert images_from_samples(samples, PICTURE)[0, 0].tolist() == [[0, 128, 0], [255, 255, 191]]


def test_every_byte_survives_a_round_trip():
    levels = np.arange(256).reshape(1, 1, 16, 16)
    output = Output((1, 16, 16), "f32", (-1.0, 1.0))
    samples = (levels / 127.5 - 1).astype(np.float32)
    assert (images_from_samples(samples, output)[..., 0] == levels[:, 0]).all()


def test_tokens_are_grey_levels():
    output = Output((6,), "i64", None, Tokens(17, (1, 2, 3)))
    tokens = np.array([[0, 1, 2, 8, 15, 16]])
    assert images_from_samples(tokens, output)[0, ..., 0].tolist() == [[0, 16, 32], [128, 239, 255]]
    for bad in (tokens + 1, tokens - 1, tokens / 2):
        with pytest.raises(BundleError, match="token"):
            images_from_samples(bad, output)


def test_what_is_no_picture_is_refused():
    zeros = np.zeros((1, 3, 1, 2), np.float32)
    for samples, output, message in [
        (zeros, Output((3, 1, 2), "f32"), "no pictures"),
        (zeros[0], PICTURE, "shape"),
        (zeros * np.nan, PICTURE, "sample 0"),
    ]:
        with pytest.raises(BundleError, match=message) as raised:
            images_from_samples(samples, output)
        assert raised.value.code == "E0612"


def test_grid():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert grid(images, 2)[..., 0].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert grid(images, 3, gap=1)[..., 0].tolist() == [
        [0, 255, 1, 255, 2],
        [255] * 5,
        [3, 255, 4, 255, 255],
    ]
    wide = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(grid(wide, 2), np.concatenate(list(wide), axis=1))
    for bad, columns, gap in ((images[:0], 2, 0), (images, 0, 0), (images, 1, -1), (images.astype(int), 1, 0)):
        with pytest.raises(BundleError):
            grid(bad, columns, gap)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_read_by_others(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    read = np.asarray(Image.open(io.BytesIO(png(image))))
    np.testing.assert_array_equal(read.reshape(image.shape), image)
    with pytest.raises(BundleError):
        png(image[0])
