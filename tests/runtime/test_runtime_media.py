"""Samples of every medium as files: images, video, audio, points, text, arrays."""

import io
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentc_runtime import BundleError, grid, png
from latentc_runtime.manifest import Output
from latentc_runtime.media import encoded, images

IMAGE = ("channel", "height", "width")
PICTURE = Output((3, 1, 2), "f32", "image", IMAGE, (-1.0, 1.0))
CLOUD = Output((5, 3), "f32", "points", ("point", "coordinate"))
SOUND = Output((2, 400), "f32", "audio", ("channel", "time"), (-2.0, 2.0), rate=100.0)
FILM = Output((4, 1, 3, 5), "f32", "video", ("frame", "channel", "height", "width"), (0.0, 1.0), rate=10.0)
ARRAY = Output((5, 8, 8), "f32", axes=IMAGE)


def one(samples: np.ndarray, output: Output, name: str, columns: int = 2) -> bytes:
    (content,) = encoded(samples, output, name, columns).values()
    return content


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_arrays_are_scaled_rounded_and_clipped():
    samples = np.array([[-1, 1], [0, 7], [-9, 0.5]], np.float32).reshape(1, 3, 1, 2)
    assert images(samples, PICTURE)[0, 0].tolist() == [[0, 128, 0], [255, 255, 191]]


def test_every_byte_survives_a_round_trip():
    levels = np.arange(256).reshape(1, 1, 16, 16)
    output = Output((1, 16, 16), "f32", "image", IMAGE, (-1.0, 1.0))
    samples = (levels / 127.5 - 1).astype(np.float32)
    assert (images(samples, output)[..., 0] == levels[:, 0]).all()


def test_axes_are_found_by_name():
    samples = np.arange(6, dtype=np.float32).reshape(1, 2, 1, 3)
    output = Output((2, 1, 3), "f32", "image", ("width", "height", "channel"), (0.0, 255.0))
    assert images(samples, output).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
    grey = Output((2, 3), "f32", "image", ("height", "width"), (0.0, 255.0))
    assert images(samples.reshape(1, 2, 3), grey)[0, ..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tokens_are_grey_levels():
    output = Output((6,), "i64", "image", ("token",), classes=17, grid=(2, 3))
    tokens = np.array([[0, 1, 2, 8, 15, 16]])
    assert images(tokens, output)[0, ..., 0].tolist() == [[0, 16, 32], [128, 239, 255]]
    for bad in (tokens + 1, tokens - 1, tokens / 2):
        with pytest.raises(BundleError, match="token"):
            images(bad, output)


@pytest.mark.parametrize(
    ("samples", "output", "message"),
    [
        (np.zeros((1, 5, 8, 8)), ARRAY, "not images: their medium is `array`"),
        (np.zeros((1, 2, 400)), SOUND, "not images"),
        (np.zeros((3, 1, 2)), PICTURE, "shape"),
        (np.full((2, 3, 1, 2), [[[[0.0]]], [[[np.inf]]]]), PICTURE, "sample 1"),
    ],
)
def test_what_is_no_picture_is_refused(samples, output, message):
    with pytest.raises(BundleError, match=message) as raised:
        images(samples, output)
    assert raised.value.code == "E0612"


@pytest.mark.parametrize(
    ("output", "suffix", "allowed"),
    [
        (ARRAY, ".png", "array samples are written as .npz or a folder, not .png"),
        (PICTURE, ".wav", "image samples are written as .png, .npz or a folder, not .wav"),
        (SOUND, ".gif", "audio samples are written as .wav, .png, .npz or a folder"),
        (CLOUD, ".txt", "points samples are written as .npz, .png or a folder"),
    ],
)
def test_a_format_of_another_medium_is_refused(output, suffix, allowed):
    with pytest.raises(BundleError, match=allowed) as raised:
        encoded(np.zeros((1, *output.shape)), output, f"a{suffix}")
    assert raised.value.code == "E0612"


def test_a_folder_gets_a_file_per_sample():
    files = encoded(np.zeros((3, *PICTURE.shape)), PICTURE, "out")
    assert list(files) == [Path("out/00000.png"), Path("out/00001.png"), Path("out/00002.png")]
    assert opened(files[Path("out/00000.png")]).shape == (1, 2, 3)


def test_arrays_as_they_are():
    samples = np.random.default_rng(0).standard_normal((2, *ARRAY.shape)).astype(np.float32)
    with np.load(io.BytesIO(one(samples, ARRAY, "a.npz"))) as stored:
        np.testing.assert_array_equal(stored["samples"], samples)


def test_wav_holds_the_samples_one_after_another():
    samples = np.stack([np.full((2, 400), 1.0), np.full((2, 400), -4.0)]).astype(np.float32)
    with wave.open(io.BytesIO(one(samples, SOUND, "a.wav"))) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (2, 2, 100)
        pcm = np.frombuffer(sound.readframes(10_000), "<i2").reshape(-1, 2)
    assert len(pcm) == 400 + 25 + 400
    assert (pcm[:400] == 16384).all() and (pcm[400:425] == 0).all() and (pcm[425:] == -32767).all()


def test_waveforms_are_plotted():
    time = np.arange(400) / 400
    samples = np.stack([2 * np.sin(8 * np.pi * time), np.zeros(400)])[None]
    plot = opened(one(samples, SOUND, "a.png"))
    assert plot.shape == (128, 256, 3)
    inked = (plot == (31, 119, 180)).all(-1)
    assert inked.any(axis=0).all()  # a value in every column
    assert inked[0].any() and inked[63].any() and not inked[64:94].any()  # full scale above, silence below
    short = Output((1, 3), "f32", "audio", ("channel", "time"), (-1.0, 1.0), rate=100.0)
    assert opened(one(np.zeros((1, 1, 3)), short, "a.png")).shape == (64, 256, 3)


def test_videos_play_side_by_side():
    samples = np.zeros((2, *FILM.shape), np.float32)
    samples[1, 2] = 1
    film = Image.open(io.BytesIO(one(samples, FILM, "a.gif")))
    assert film.n_frames >= 2 and film.info["duration"] >= 100
    frames = []
    for i in range(film.n_frames):
        film.seek(i)
        frames.append(np.asarray(film.convert("L")))
    assert frames[0].shape == (3, 5 + 2 + 5)
    assert (frames[0][:, :5] == 0).all() and any((f[:, 7:] == 255).all() for f in frames)
    assert opened(one(samples, FILM, "a.png")).shape == (3 + 2 + 3, 4 * 5)  # a strip per sample


def test_point_clouds_are_plotted():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)[None]
    plot = opened(one(corners, CLOUD, "a.png"))
    inked = (plot != 255).any(-1)
    assert inked.sum() == 5 * 4
    assert (opened(one(corners * 7 + 3, CLOUD, "a.png")) == plot).all()  # to its own scale
    assert (opened(one(np.zeros((1, 5, 3)), CLOUD, "a.png")) != 255).any()
    flat = Output((4, 2), "f32", "points", ("point", "coordinate"))
    plot = opened(one(np.array([[[0, 0], [1, 0], [0, 1], [0, 1]]]), flat, "a.png"))
    rows, columns = np.nonzero((plot != 255).any(-1))
    assert set(zip(rows > 80, columns > 80, strict=True)) == {(True, False), (True, True), (False, False)}


def test_text_by_alphabet_bytes_or_numbers():
    tokens = np.array([[0, 2, 1], [1, 1, 0]])
    letters = Output((3,), "i64", "text", ("token",), classes=3, alphabet="a b")
    assert one(tokens, letters, "a.txt") == b"ab \n  a\n"
    utf8 = Output((3,), "i64", "text", ("token",), classes=256)
    assert one(np.array([[0xC3, 0xA9, 33], [255, 65, 66]]), utf8, "a.txt").decode() == "é!\n\ufffdAB\n"
    many = Output((3,), "i64", "text", ("token",), classes=50_000)
    assert one(tokens, many, "a.txt") == b"0 2 1\n1 1 0\n"
    with pytest.raises(BundleError, match="a token is outside 0 to 2"):
        one(tokens + 1, letters, "a.txt")


def test_grid():
    pictures = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert grid(pictures, 2)[..., 0].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert grid(pictures, 3, gap=1)[..., 0].tolist() == [
        [0, 255, 1, 255, 2],
        [255] * 5,
        [3, 255, 4, 255, 255],
    ]
    wide = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.testing.assert_array_equal(grid(wide, 2), np.concatenate(list(wide), axis=1))
    for bad, columns, gap in ((pictures[:0], 2, 0), (pictures, 0, 0), (pictures, 1, -1), (pictures.astype(int), 1, 0)):
        with pytest.raises(BundleError):
            grid(bad, columns, gap)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_read_by_others(channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    np.testing.assert_array_equal(opened(png(picture)).reshape(picture.shape), picture)
    with pytest.raises(BundleError):
        png(picture[0])


def test_grids_with_labels(tmp_path):
    field = Output((1, 4, 4), "f32", "image", ("channel", "height", "width"), (-1.0, 1.0))
    samples = np.linspace(-1, 1, 6 * 16, dtype=np.float32).reshape(6, 1, 4, 4)
    plain = encoded(samples, field, "a.png", 3)
    (rows,) = encoded(samples, field, "a.png", 3, ["tabby"] * 3 + ["a name so long that it is cut " * 4] * 3).values()
    (captions,) = encoded(samples, field, "a.png", 3, ["a", "b", "c", "d", "e", "大白鲨"]).values()
    with Image.open(io.BytesIO(rows)) as left, Image.open(io.BytesIO(captions)) as below:
        assert left.size == (240 + 3 * 50 - 2, 2 * 50 - 2) and below.size == (3 * 50 - 2, 2 * 68 - 2)
        pixels = np.asarray(left)[:, 240:]
        assert (np.asarray(left)[:, :240] < 128).any() and (np.asarray(below)[48:66, :48] < 128).any()
    with Image.open(io.BytesIO(next(iter(plain.values())))) as small:  # enlarged twelve times
        np.testing.assert_array_equal(pixels[::12, ::12][:4, :4], np.asarray(small)[:4, :4])
    for path, output, labels, said in (
        ("a.npz", field, ["a"] * 6, "in a .png"),
        ("a.png", field, ["a"], "1 labels for 6 pictures"),
    ):
        with pytest.raises(BundleError, match=said):
            encoded(samples, output, path, 3, labels)
