"""data.py of a project: kinds of data, their order, cached latents, refusals."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch_module import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "templates" / "project"))

import data

TRAIN = {"batch_size": 4, "seed": 3, "workers": 0}


def config(**settings: Any) -> dict[str, Any]:
    base = {"classes": 2, "shape": [3, 8, 8], "tokens": None, "first_stage": None, "horizontal_flip": True}
    return {"train": dict(TRAIN), "data": {**base, **settings}}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path / "images"


def first(found: Any, settings: dict[str, Any], steps: int, start: int = 0, rank: int = 0, world: int = 1) -> list[Any]:
    feed = data.batches(found, settings, start, rank, world)
    return [next(feed) for _ in range(steps)]


def test_image_folder(images: Path) -> None:
    settings = config(kind="image_folder", path=str(images))
    found = data.open_data(settings)
    assert found.size == 10 and list(found.y) == [0] * 5 + [1] * 5
    batch = first(found, settings, 1)[0]
    assert batch["x"].shape == (4, 3, 8, 8) and batch["x"].dtype == torch.float32
    assert batch["x"].abs().max() <= 1 and set(batch["y"].tolist()) <= {0, 1}


def test_order_depends_on_seed_and_step_alone(images: Path) -> None:
    settings = config(kind="image_folder", path=str(images))
    found = data.open_data(settings)
    whole = first(found, settings, 6)
    later = first(found, settings, 2, start=4)
    for a, b in zip(whole[4:], later, strict=True):
        assert torch.equal(a["x"], b["x"]) and torch.equal(a["y"], b["y"])
    halves = [first(found, settings, 1, rank=rank, world=2)[0]["y"] for rank in (0, 1)]
    assert sorted(torch.cat(halves).tolist()) == sorted(whole[0]["y"].tolist())
    other = copy.deepcopy(settings)
    other["train"]["seed"] = 4
    assert any(not torch.equal(a["x"], b["x"]) for a, b in zip(whole, first(found, other, 6), strict=True))
    # An epoch shows no sample twice.
    rows = [r for r, _, _ in zip_order(found, 2)]
    assert len(set(np.concatenate(rows).tolist())) == 8


def zip_order(found: Any, steps: int) -> list[Any]:
    order = iter(data.Order(found, 4, 3, 0, 0, 1))
    return [next(order) for _ in range(steps)]


def test_npz(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8), np.array([0, 1, 0, 1, 0, 1])
    np.savez(tmp_path / "a.npz", x=x, y=y)
    settings = config(kind="npz", path=str(tmp_path / "a.npz"), keys={"x": "x", "y": "y"})
    batch = first(data.open_data(settings), settings, 1)[0]
    assert batch["x"].shape == (4, 3, 8, 8) and batch["x"].abs().max() <= 1
    for change, said in (
        ({"path": str(tmp_path / "none.npz")}, "no file"),
        ({"keys": {"x": "pixels", "y": "y"}}, "no array 'pixels'"),
        ({"classes": 1}, "labels"),
        ({"shape": [3, 16, 16]}, "the model takes"),
    ):
        wrong = copy.deepcopy(settings)
        wrong["data"].update(change)
        with pytest.raises(SystemExit, match=said):
            data.open_data(wrong)
    settings["train"]["batch_size"] = 7
    with pytest.raises(SystemExit, match="batch_size"):
        data.batches(data.open_data(settings), settings, 0, 0, 1)


def test_digits_as_tokens() -> None:
    settings = config(kind="digits", shape=None, tokens={"vocabulary": 17, "grid": [8, 8]}, classes=10)
    settings["data"].update({"as": "tokens", "part": "all"})
    found = data.open_data(settings)
    batch = first(found, settings, 1)[0]
    assert batch["tokens"].shape == (4, 64) and batch["tokens"].dtype == torch.int64
    assert data.pictures(batch["tokens"], settings).shape == (4, 8, 8, 1)
    assert np.array_equal(np.unique(data.pictures(torch.tensor([[0, 16] * 32]), settings)), [0, 255])


def test_latents_are_cached_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = diffusers.AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=4, latent_channels=4, **blocks)
    vae.save_pretrained(images.parent / "vae")
    stage = {"kind": "autoencoder_kl", "path": str(images.parent / "vae"), "scale": 0.5, "factor": 2}
    settings = config(kind="image_folder", path=str(images), shape=[4, 4, 4], first_stage=stage)
    found = data.open_data(settings)
    (cache,) = images.parent.glob("*.npy")
    moments = np.load(cache)
    assert moments.shape == (10, 2, 2, 4, 4, 4)
    encode = data.encode
    monkeypatch.setattr(data, "encode", lambda *_: pytest.fail("encoded twice"))
    assert data.open_data(settings).size == 10
    batch = first(found, settings, 1)[0]
    assert batch["x"].shape == (4, 4, 4, 4) and torch.equal(batch["x"], first(found, settings, 1)[0]["x"])
    pictures = data.pictures(batch["x"], settings)
    assert pictures.shape == (4, 8, 8, 3) and pictures.dtype == np.uint8
    # The cache holds what the encoder gives, of the image and of its mirror image.
    x = torch.from_numpy(data.ImageFolder(str(images), 8, False).image(0).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        for view, picture in enumerate((x, x.flip(-1))):
            mean = vae.encode(picture).latent_dist.mean[0].numpy()
            assert np.allclose(moments[0, view, 0], mean, atol=2e-2)
    # Other images, which would get the latents and labels of the first ones, are encoded anew.
    shutil.copy(images / "dog" / "0.png", images / "cat" / "5.png")
    monkeypatch.setattr(data, "encode", encode)
    assert len(data.open_data(settings).moments) == 11
    settings["data"]["horizontal_flip"] = False
    assert not data.open_data(settings).flip
