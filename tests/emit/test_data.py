"""Data of a project: the order of samples, codes cached by a first stage, samples written by their medium."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forked import python
from PIL import Image
from safetensors.numpy import load_file
from torch_module import REPOSITORY

from latentc.api import forward
from latentc.checkpoint import network_types
from latentc.components.data.audio_folder import AudioFolder
from latentc.components.dataset import Data
from latentc.emit import project_files, project_from_lowered
from latentc.emit.data import data_files
from latentc.emit.model import SUPPORT
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array as Held
from latentc.weights import write_safetensors

TRAIN = {"batch_size": 4, "seed": 3, "workers": 0}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i}.png")
    return tmp_path / "images"


class Modules:
    """The modules of a project that read its data and write its samples, imported as it imports them."""

    def __init__(self, data: Data, folder: Path) -> None:
        folder.mkdir()
        self.files = data_files(data)
        for name in ("__init__.py", "data.py", "config.py", "storage.py", "plain_errors.py", "progress.py"):
            self.files[name] = (REPOSITORY / "templates" / "project" / "support" / name).read_text()
        (folder / SUPPORT).mkdir()
        for name, text in self.files.items():
            (folder / SUPPORT / name).write_text(text)
        self.config = {"train": dict(TRAIN), "data": data.settings()}
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def __getitem__(self, name: str) -> ModuleType:
        return importlib.import_module(f"{SUPPORT}.{name}")

    def batches(self, steps: int, start: int = 0, rank: int = 0, world: int = 1) -> list[dict[str, torch.Tensor]]:
        samples = self["data"].open_data(self.config)
        feed = self["data"].batches(samples, self.config, start, rank, world)
        return [next(feed) for _ in range(steps)]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Data], Modules]]:
    """Emits what the data needs into a folder; one such project per test."""
    known = dict(sys.modules)

    def make(data: Data) -> Modules:
        made = Modules(data, tmp_path / "project")
        for name in [name for name in sys.modules if name.partition(".")[0] == SUPPORT]:
            del sys.modules[name]  # of another test's project
        monkeypatch.syspath_prepend(tmp_path / "project")
        return made

    yield make
    for name in [name for name, module in sys.modules.items() if known.get(name) is not module]:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def data_of(text: str, spec: str = "digits_dit") -> Data:
    return load_spec(spec, overrides=[f"data={text}"]).data


def test_order_depends_on_seed_and_step_alone(images: Path, modules: Callable[[Data], Modules]) -> None:
    project = modules(data_of(f"{{kind: image_folder, path: '{images}', classes: 2, shape: [3, 8, 8]}}"))
    whole, later = project.batches(6), project.batches(2, start=4)
    assert whole[0]["x"].shape == (4, 3, 8, 8) and whole[0]["y"].dtype == torch.int64
    for a, b in zip(whole[4:], later, strict=True):
        assert torch.equal(a["x"], b["x"]) and torch.equal(a["y"], b["y"])
    halves = [project.batches(1, rank=rank, world=2)[0]["y"] for rank in (0, 1)]
    assert sorted(torch.cat(halves).tolist()) == sorted(whole[0]["y"].tolist())
    # An epoch shows no sample twice.
    order = iter(project["data"].Order(10, 4, 3, 0, 0, 1))
    assert len(set(np.concatenate([next(order)[0] for _ in range(2)]).tolist())) == 8
    project.config["train"]["seed"] = 4
    assert any(not torch.equal(a["x"], b["x"]) for a, b in zip(whole, project.batches(6), strict=True))
    project.config["train"]["batch_size"] = 11
    with pytest.raises(SystemExit, match="batch_size: 11 samples per step, but the data has only 10"):
        project.batches(1)
    project.config["data"]["path"] = "nowhere"
    with pytest.raises(SystemExit, match="data: path: nowhere is not a folder"):
        project.batches(1)


def damage(images: Path) -> tuple[Path, Path]:
    """Cuts the first image of each class short."""
    files = images / "cat" / "0.png", images / "dog" / "0.png"
    for file in files:
        file.write_bytes(file.read_bytes()[:60])
    return files


def test_damaged_images_are_counted_and_skipped(
    images: Path, modules: Callable[[Data], Modules], capsys: pytest.CaptureFixture[str]
) -> None:
    """The next image that can be read takes the place of a damaged one, with its label; with `refuse` all are named."""
    files = damage(images)
    project = modules(data_of(f"{{kind: image_folder, path: '{images}', classes: 2, shape: [3, 8, 8]}}"))
    with pytest.raises(SystemExit) as refused:
        project["data"].open_data(project.config).check()
    assert "2 of 10 images cannot be read" in str(refused.value)
    assert all(f"{file} cannot be read as an image" in str(refused.value) for file in files)
    project.config["data"]["damaged"] = "skip"
    samples = project["data"].open_data(project.config)
    samples.check()
    assert "2 of 10 images cannot be read and are skipped: " in capsys.readouterr().out
    rows = samples.source.rows(np.array([0, 1, 5, 6, 9]))
    assert (rows["x"][0] == rows["x"][1]).all() and (rows["x"][2] == rows["x"][3]).all()
    assert rows["y"].tolist() == [0, 0, 1, 1, 1]
    for file in images.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(SystemExit, match="10 of 10 images cannot be read"):
        project["data"].open_data(project.config).check()
    with pytest.raises(ValueError, match="none of the images can be read"):
        samples.source.rows(np.array([0]))


SMALL = "width: 8, multipliers: [1, 2], blocks: 1, groups: 4"
STAGES = {
    "latents": f"extends: sd_vae\nbackbone: {{{SMALL}}}\n",
    "tokens": f"extends: vq_f16\nbackbone: {{{SMALL}, attention: [1], bottleneck: {{size: 64}}}}\n",
}


def staged(
    kind: str, fields: str, images: Path, modules: Callable[[Data], Modules], name: str = "", channels: int = 3
) -> tuple[Modules, Path]:
    """The modules of a project with a tiny first stage, and its spec; the weights are random."""
    file = images.parent / "stage.yaml"
    file.write_text(f"latentc: 1\nname: stage\n{STAGES[kind]}data: {{shape: [{channels}, 8, 8]}}\n")
    of = load_spec(file)
    rng = np.random.default_rng(0)
    types = network_types(lower(of), "main")
    arrays = {n: rng.standard_normal(shape) * 0.2 + (len(shape) == 1) for n, (shape, _) in types.items()}
    stage = f"{{spec: '{file}', scale: 0.5}}"
    data = f"data={{kind: image_folder, path: '{images}', classes: 2, {fields}, first_stage: {stage}}}"
    name = name or ("dit" if kind == "latents" else "llamagen")
    spec = load_spec(name, overrides=[data, "backbone.depth=1"])
    project = modules(spec.data)
    made = project_files(lower(spec, to_emit=True), spec)
    project.config["data"] = yaml.safe_load(made["config.yaml"])["data"]
    (images.parent / "project" / SUPPORT / "autoencoder.py").write_text(str(made[f"{SUPPORT}/autoencoder.py"]))
    weights = images.parent / "project" / "first_stage.safetensors"
    write_safetensors(weights, {n: Held(a.astype(np.float32)) for n, a in arrays.items()})
    return project, file


def encoded(stage: Path, images: Path, pixels: np.ndarray) -> np.ndarray:
    """Codes of images u8[N, H, W, C] by the oracle."""
    x = pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    size = [f"data.shape={list(x.shape[1:])}"]
    weights = images.parent / "project" / "first_stage.safetensors"
    return forward(stage, weights, {"x": x}, overrides=size, method="encode")


@pytest.mark.parametrize("channels", [3, 1])
def test_latents_are_cached_once(
    images: Path, modules: Callable[[Data], Modules], monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    project, stage = staged("latents", "shape: [4, 4, 4]", images, modules, channels=channels)
    batch = project.batches(1)[0]
    (cache,) = images.parent.glob("*.npy")
    moments = np.load(cache)
    assert moments.shape == (10, 2, 2, 4, 4, 4)
    encode = project["dataset"].encode
    monkeypatch.setattr(project["dataset"], "encode", lambda *_: pytest.fail("encoded twice"))
    assert batch["x"].shape == (4, 4, 4, 4) and torch.equal(batch["x"], project.batches(1)[0]["x"])
    # The cache holds what the encoder gives, of the image and of its mirror image.
    pixels = project["image_folder"].ImageFolder(str(images), 2, 8, channels).pixels(0)
    want = encoded(stage, images, np.stack([pixels, pixels[:, ::-1]]))
    assert np.allclose(moments[0, :, 0], want[:, :4], atol=2e-2)
    assert np.allclose(moments[0, :, 1], np.exp(want[:, 4:] / 2), rtol=2e-2)
    rows = project["dataset"].open_dataset(project.config["data"]).rows(np.arange(1))
    assert np.allclose(rows["x"], moments[0, :1, 0].astype(np.float32) * 0.5)
    # Other images, which would get the latents and labels of the first ones, are encoded anew.
    shutil.copy(images / "dog" / "0.png", images / "cat" / "5.png")
    monkeypatch.setattr(project["dataset"], "encode", encode)
    assert project["dataset"].open_dataset(project.config["data"]).size == 11
    project.config["data"]["horizontal_flip"] = False
    assert project["dataset"].open_dataset(project.config["data"]).codes.shape[1] == 1
    # Another project's copy of the first stage finds the cache; other weights do not.
    caches = {*images.parent.glob("*.npy")}
    weights = images.parent / "project" / "first_stage.safetensors"
    moved = weights.with_name("copy.safetensors")
    shutil.copy(weights, moved)
    project.config["data"]["first_stage"]["weights"] = moved.name
    project["dataset"].open_dataset(project.config["data"])
    assert {*images.parent.glob("*.npy")} == caches
    write_safetensors(moved, {n: Held(np.asarray(a) + 1) for n, a in load_file(weights).items()})
    project["first_stage"]._loaded.cache_clear()
    project["dataset"].open_dataset(project.config["data"])
    assert len({*images.parent.glob("*.npy")}) == len(caches) + 1


def test_a_first_stage_skips_damaged_images(
    images: Path, modules: Callable[[Data], Modules], capsys: pytest.CaptureFixture[str]
) -> None:
    project, _ = staged("latents", "shape: [4, 4, 4]", images, modules)
    files = damage(images)
    opened = project["dataset"].open_dataset
    with pytest.raises(ValueError, match="cannot be read as an image"):
        opened(project.config["data"])
    project.config["data"]["damaged"] = "skip"
    for _ in ("encoded", "cached"):
        found = opened(project.config["data"])
        rows = found.rows(np.array([0, 1, 5, 6]))
        assert rows["y"].tolist() == [0, 0, 1, 1] and np.array_equal(rows["x"][[0, 2]], rows["x"][[1, 3]])
    assert f"2 of 10 images cannot be read and are skipped: {files[0]}" in capsys.readouterr().out
    assert project["dataset"].pictures(project.config["data"], 10).shape == (10, 3, 8, 8)


def test_fields_may_be_latents_of_the_resized_image(images: Path, modules: Callable[[Data], Modules]) -> None:
    fields = "shape: [4, 4, 4], fields: {small: {shape: [4, 2, 2], resized: true}}"
    project, stage = staged("latents", fields, images, modules)
    found = project["dataset"].open_dataset(project.config["data"])
    pixels = project["image_folder"].ImageFolder(str(images), 2, 8, 3).pixels(3)
    x = torch.from_numpy(np.stack([pixels, pixels[:, ::-1]])).permute(0, 3, 1, 2) / 127.5 - 1
    small = torch.nn.functional.interpolate(x, size=4, mode="bicubic").permute(0, 2, 3, 1).numpy()
    want = encoded(stage, images, (small + 1) * 127.5)[:, :4] * 0.5
    assert np.allclose(found.rows(np.array([3]))["small"], want[:1], atol=1e-2)
    # Both fields are of one view, which training draws.
    found.stage["scale"], views = 1.0, np.stack([found.codes[3], found.codes[3]])
    for seed in range(4):
        drawn = found.rows(np.array([3]), np.random.default_rng(seed))
        view = np.random.default_rng(seed).integers(2, size=1)[0]
        for name, codes in (("x", views[0]), ("small", found.resized["small"][3])):
            mean, std = codes[view].astype(np.float32)
            assert np.abs(drawn[name][0] - mean).max() < 5 * std.max()
    assert len(list(images.parent.glob("*.npy"))) == 2


@pytest.mark.parametrize(("crops", "views"), [("center", 2), ("ten", 10)])
def test_tokens_are_of_crops_and_mirror_images(
    crops: str, views: int, images: Path, modules: Callable[[Data], Modules]
) -> None:
    fields = f"tokens: {{vocabulary: 64, grid: [8, 8]}}, crops: {crops}"
    project, stage = staged("tokens", fields, images, modules)
    found = project["dataset"].open_dataset(project.config["data"])
    assert found.codes.shape == (10, views, 64)
    drawn = np.stack([found.rows(np.arange(10), np.random.default_rng(i))["tokens"] for i in range(6)])
    assert drawn.dtype == np.int64 and (drawn != drawn[0]).any(axis=(0, 2)).all()  # views change, for every image
    all_views = project["dataset"].views_of(found_images(project, images), 3, True, crops)
    assert all_views.shape == (views, 16, 16, 3)
    np.testing.assert_array_equal(all_views[views // 2 :], all_views[: views // 2, :, ::-1])
    assert (found.codes[3] == encoded(stage, images, all_views)).mean() > 0.99


def test_tokens_are_of_images_as_they_are_this_time(images: Path, modules: Callable[[Data], Modules]) -> None:
    """With `views` every batch is encoded, and nothing is cached."""
    fields = "tokens: {vocabulary: 64, grid: [8, 8]}, views: {crop: [0.2, 1.0], rand_augment: {}, cutmix: 1.0}"
    project, stage = staged("tokens", fields, images, modules, "mage_classifier")
    (batch,), (again,) = project.batches(1), project.batches(1)
    assert sorted(batch) == ["tokens", "y", "y_other", "y_share"] and torch.equal(batch["tokens"], again["tokens"])
    assert torch.equal(batch["y_other"], batch["y"].flip(0)) and not list(images.parent.glob("*.npy"))
    source = project["dataset"].open_dataset(project.config["data"])
    rows, key = next(iter(project["data"].Order(10, 4, project.config["train"]["seed"], 0, 0, 1)))
    pixels = source.rows(rows, np.random.default_rng(key))["pixels"]
    wanted = encoded(stage, images, (pixels.transpose(0, 2, 3, 1) + 1) * 127.5)
    assert (batch["tokens"].numpy() == wanted).mean() > 0.99
    plain = source.finished({name: torch.from_numpy(array) for name, array in source.rows(rows[:1]).items()})
    pixels = found_images(project, images).pixels(int(rows[0]))
    assert (plain["tokens"].numpy() == encoded(stage, images, pixels[None])).mean() > 0.99


def found_images(project: Modules, images: Path) -> Any:
    return project["image_folder"].ImageFolder(str(images), 2, 16, 3)


CASES = {
    "five channels": ("{kind: npz, path: FILE, classes: 3, shape: [5, 8, 8]}", [".npz"], (5, 8, 8)),
    "two channels": ("{kind: npz, path: FILE, classes: 3, shape: [2, 8, 8]}", [".npz"], (2, 8, 8)),
    "a picture": ("{kind: npz, path: FILE, classes: 3, shape: [3, 8, 8]}", [".png"], (3, 8, 8)),
    "mapped files": ("{kind: npy_folder, path: FOLDER, classes: 3, shape: [1, 8, 8]}", [".png"], (1, 8, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_previews_and_samples_are_of_the_medium(case: str, tmp_path: Path) -> None:
    """The emitted project trains, writes previews and samples; what is no picture never becomes one."""
    data, suffixes, shape = CASES[case]
    x, y = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32), np.arange(8) % 3
    np.savez(tmp_path / "d.npz", x=x, y=y)
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", x)
    np.save(tmp_path / "d" / "y.npy", y)
    data = data.replace("FILE", f"'{tmp_path / 'd.npz'}'").replace("FOLDER", f"'{tmp_path / 'd'}'")
    tiny = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=2"]
    spec = load_spec("digits_dit", overrides=[f"data={data}", *tiny])
    project = tmp_path / "project"
    project_from_lowered(lower(spec), spec, project)
    short = ["--steps", "1", "--batch_size", "4", "--sample_every", "1", "--schedule.warmup", "0", "--workers", "0"]
    run(project, "train.py", *short)
    previews = [path.suffix for path in (project / "runs" / "train" / "samples").iterdir() if path.is_file()]
    assert previews == suffixes
    weights = ["--weights", "runs/train/weights.safetensors", "--per-class", "1"]
    assert run(project, "sample.py", *weights, "-o", f"out{suffixes[0]}").strip() == f"out{suffixes[0]}"
    assert (project / f"out{suffixes[0]}").is_file()
    refused = run(project, "sample.py", *weights, "-o", "out.wav", status=1)
    assert f"written as {suffixes[0]}" in refused and "not .wav" in refused and not (project / "out.wav").exists()


SENT = """
import pickle
import numpy as np
from multiprocessing.reduction import ForkingPickler
from latentc_support.config import load_config
from latentc_support.data import open_data
samples = open_data(load_config())
sent = bytes(ForkingPickler.dumps(samples))
rows = np.arange(3)
assert np.array_equal(pickle.loads(sent).source.rows(rows)["x"], samples.source.rows(rows)["x"])
part = np.load("d/x.npy", mmap_mode="r")[2:]
assert np.array_equal(pickle.loads(bytes(ForkingPickler.dumps(part))), part)
print(len(sent))
"""


def test_a_field_that_the_data_lacks_is_reported(images: Path, modules: Callable[[Data], Modules]) -> None:
    project = modules(data_of(f"{{kind: image_folder, path: '{images}', classes: 2, shape: [3, 8, 8]}}"))
    samples = project["data"].open_data(project.config)
    samples.require(["x", "y"])
    with pytest.raises(SystemExit, match="samples have no field caption, which training reads; they have x, y"):
        samples.require(["x", "caption"])


def test_workers_map_files_instead_of_holding_copies(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", np.random.default_rng(0).standard_normal((1000, 1, 8, 8)).astype(np.float32))
    np.save(tmp_path / "d" / "y.npy", np.arange(1000) % 3)
    data = "data={kind: npy_folder, path: d, classes: 3, shape: [1, 8, 8]}"
    spec = load_spec("digits_dit", overrides=[data, "backbone.width=16", "backbone.depth=1"])
    project_from_lowered(lower(spec), spec, tmp_path / "project")
    (tmp_path / "d").rename(tmp_path / "project" / "d")
    assert int(run(tmp_path / "project", "-c", SENT)) < 10_000


def run(project: Path, *command: str, status: int = 0) -> str:
    done = python(project, *command)
    assert done.returncode == status, done.stderr
    return done.stdout + (done.stderr if status else "")


def test_a_project_has_only_the_media_that_it_needs(tmp_path: Path, modules: Callable[[Data], Modules]) -> None:
    files = data_files(load_spec("digits_dit").data)
    assert sorted(files) == ["arrays.py", "dataset.py", "files.py", "labels.py", "media.py", "pixels.py"]
    assert not any("wave" in text or re.search(r"\b(import|from) latentc\b", text) for text in files.values())
    folder = AudioFolder(kind="audio_folder", classes=2, shape=(1, 50), rate=100.0)
    sounds = modules(folder)
    field = sounds.config["data"]["fields"]["x"]
    assert (field["medium"], field["rate"]) == ("audio", 100.0)
    sounds["files"].write(np.zeros((2, 1, 50)), field, tmp_path / "a.wav", 2, sounds["media"].FORMATS)
    with wave.open(str(tmp_path / "a.wav")) as sound:
        assert sound.getnframes() == 50 + 25 + 50
    sounds["files"].write(np.zeros((2, 1, 50)), field, tmp_path / "a", 2, sounds["media"].FORMATS)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["00000.wav", "00001.wav"]
