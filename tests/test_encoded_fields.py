"""Data fields that a frozen network computes: what the emitted project caches, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from captioned import SPEC as CAPTIONED
from forked import python, run_training
from parity_data import error
from PIL import Image
from random_weights import random_weights
from safetensors.numpy import load_file, save_file

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower, lower_networks
from latentc.spec import load_spec

ENCODER = [
    *("networks.encoder.image=8", "networks.encoder.width=16", "networks.encoder.depth=1", "networks.encoder.patch=4"),
    *("networks.encoder.block.mixer.heads=2", "networks.encoder.head={features: 6, hidden: [8], batch_norm: true}"),
]
RDM = ["networks.rdm.width=16", "networks.rdm.depth=1", "networks.rdm.time_width=8"]
FIELD = "representation: {shape: [6], encoded_by: encoder}"
TRAIN = ["train.workers=0", "train.precision=fp32", "train.batch_size=2", "train.steps=1", "train.sample_every=null"]
ADM = [
    *(*ENCODER, *RDM, *TRAIN, "networks.main.width=8", "networks.main.multipliers=[1]", "networks.main.attention=[]"),
    *("networks.main.block={groups: 4, heads: 2}", "conditioning.time.frequencies=8"),
    f"data={{kind: npz, path: images.npz, fields: {{x: {{shape: [3, 12, 12]}}, {FIELD}}}}}",
]
DIT = [
    *(*ENCODER, *RDM, *TRAIN, "networks.main.width=16", "networks.main.depth=1", "networks.main.block.mixer.heads=2"),
    "data={kind: image_folder, path: images, first_stage: {spec: stage.yaml, weights: stage.safetensors}, "
    f"fields: {{x: {{shape: [4, 4, 4]}}, {FIELD}}}}}",
]
STAGE = "latentc: 1\nname: stage\nextends: sd_vae\n"
STAGE += "backbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4, bottleneck: {channels: 4}}\n"
READ = """
import numpy as np
from latentc_support.config import load_config
from latentc_support.data import open_data
source = open_data(load_config()).source
index = np.arange(source.size)
np.savez("read.npz", first=source.rows(index)["representation"], drawn=source.rows(index, np.random.default_rng(0))
         ["representation"])
"""


SENT = """
import pickle
sent = pickle.loads(pickle.dumps(source.features["caption_features"].features))
assert isinstance(sent, np.memmap), "a worker would get a copy"
"""


def weights(spec: Any, network: str, file: Path, variant: str | None = None, sizes: Any = ()) -> None:
    lowered = lower_networks(load_spec(spec, variant, sizes))
    own = random_weights(network_params(lowered, lowered.networks[network]), np.random.default_rng(0), 0.3)
    save_file({n: np.float32(np.abs(a) if n.endswith("running_var") else a) for n, a in own.items()}, file)


def encoded(spec: str, sizes: list[str], images: np.ndarray) -> np.ndarray:
    given: Any = {"variant": "images", "overrides": sizes, "network": "encoder", "method": "encode"}
    return next(iter(api.run_method(spec, ["encoder=mocov3.safetensors"], {"x": images}, "oracle", **given).values()))


def test_samples_have_what_the_network_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("latentc.api.training.run_training", run_training)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 3, 12, 12)).astype(np.float32)
    np.savez("images.npz", x=images)
    weights("rcg_adm", "encoder", Path("mocov3.safetensors"), "images", ADM)
    project = api.train("rcg_adm", "project", [], variant="images", overrides=ADM)
    (cache,) = tmp_path.glob("images.npz.encoder.*.npy")
    assert error(np.load(cache), encoded("rcg_adm", ADM, images)) < 1e-4
    cache.unlink()
    Path("mocov3.safetensors").unlink()
    done = python(project, "-c", READ)
    assert done.returncode == 1 and "roles.encoder.pretrained: there is no file" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_images_of_a_first_stage_are_encoded_view_by_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"images/{i}.png")
    Path("stage.yaml").write_text(STAGE)
    sizes = [*DIT, f"data.first_stage.spec={tmp_path / 'stage.yaml'}"]
    weights(tmp_path / "stage.yaml", "main", Path("stage.safetensors"))
    weights("rcg", "encoder", Path("mocov3.safetensors"), "images", sizes)
    api.emit("rcg", ".", "images", sizes, force=True)
    done = python(tmp_path, "-c", READ)
    assert done.returncode == 0, done.stderr
    with np.load("read.npz") as read:
        first, drawn = read["first"], read["drawn"]
    views = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    plain, mirrored = encoded("rcg", sizes, views), encoded("rcg", sizes, np.ascontiguousarray(views[..., ::-1]))
    assert error(first, plain) < 1e-4
    near = [[np.abs(row - other[i]).max() < 1e-4 for other in (plain, mirrored)] for i, row in enumerate(drawn)]
    assert all(sum(row) == 1 for row in near) and {row.index(True) for row in near} == {0, 1}


def test_other_data_are_encoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (5, 12, 12, 3), dtype=np.uint8)
    sizes = [*ADM, f"data={{kind: image_folder, path: images, shape: [3, 12, 12], fields: {{{FIELD}}}}}"]
    weights("rcg_adm", "encoder", Path("mocov3.safetensors"), "images", sizes)
    api.emit("rcg_adm", ".", "images", sizes, force=True)
    images = encoded("rcg_adm", sizes, pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    for rows in ([0, 1], [2, 3], [2, 3, 4]):  # at first, all replaced under their names, one added
        for i, row in enumerate(rows):
            Image.fromarray(pixels[row]).save(f"images/{i}.bmp")
        done = python(tmp_path, "-c", READ)
        assert done.returncode == 0, done.stderr
        with np.load("read.npz") as read:
            assert error(read["first"], images[rows]) < 1e-4
    newest = max(tmp_path.glob("images.encoder.*.npy"), key=lambda file: file.stat().st_mtime_ns)
    np.save(newest, images[:2])
    done = python(tmp_path, "-c", READ)
    assert done.returncode == 1 and "has 2 samples, but the data has 3: delete it" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    newest.unlink()
    parts = [newest.with_name(f".{newest.stem}.{process}.unfinished.npy") for process in (1, 2)]
    for part in parts:
        part.touch()
    os.utime(parts[0], (0, 0))  # of a killed run; the other one may be going on
    assert python(tmp_path, "-c", READ).returncode == 0
    assert [part.exists() for part in parts] == [False, True]


def test_neighbours_are_searched_by_what_a_network_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    monkeypatch.chdir(tmp_path)
    block = "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
    encoder = f"{{kind: patch_encoder, width: 8, depth: 1, patch: 4, positions: {{kind: learned}}, block: {block}"
    encoder += "condition: {kind: in_context}}, output: mean, head: {features: 6}, pretrained: e.safetensors}"
    sizes = [f"networks.encoder={encoder}", "data.fields={clip: {shape: [6], encoded_by: encoder}}"]
    sizes += ["conditioning.neighbours.field=clip", *TRAIN]
    weights("digits_rdm", "encoder", Path("e.safetensors"), None, sizes)
    api.emit("digits_rdm", ".", None, sizes, force=True)
    done = python(tmp_path, "-c", READ.replace("representation", "neighbours"))
    assert done.returncode == 0, done.stderr
    (cache,) = tmp_path.glob("data.encoder.*.npy")
    held = np.load(cache)
    near = held @ held.T / np.linalg.norm(held, axis=1) / np.linalg.norm(held, axis=1)[:, None] - 2 * np.eye(len(held))
    with np.load("read.npz") as read:
        found = read["first"]
    cosine = (found * held[:, None]).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(held, axis=1)[:, None]
    assert np.abs(cosine - np.sort(near, axis=1)[:, :-5:-1]).max() < 1e-4
    with pytest.raises(DiagnosticError, match="is computed by network `encoder`"):
        api.index("digits_rdm", tmp_path / "index", overrides=sizes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.fields.representation.encoded_by=none", "network `none` does not exist"),
        ("data.fields.representation.encoded_by=rdm", "network `rdm` encodes nothing"),
        ("data.fields.representation.shape=[5]", "returns [6] per sample, but the field has shape [5]"),
        (
            "networks.encoder.pretrained=null",
            "this field is computed before training, but network `encoder` is trained",
        ),
        ("networks.encoder.reads=representation", "a patch_encoder takes square images"),
        ("networks.encoder.reads=images", "the data has no images for a first stage"),
        ("networks.encoder.class_token=false", "there is no class token"),
        ("networks.encoder.positions={kind: sincos_2d}", "has no position for a class token"),
        ("networks.encoder.head.features=1", "vectors of one number have no standard deviation"),
        ("networks.encoder.frozen=false", "this field is computed before training, but network `encoder` is trained"),
        ("networks.encoder.patch=3", "patches of 3 do not tile a side of 8"),
    ],
)
def test_what_is_refused(change: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("rcg_adm", "images", [*ADM, change])
    assert any(words in d.message for d in refused.value.diagnostics), refused.value


def test_a_request_does_not_give_what_is_drawn() -> None:
    lowered = lower(load_spec("rcg_adm", "images", ADM))
    assert lowered.conditions == () and lowered.sampled == ("main", "rdm")


CAPTIONED_FIELDS = yaml.safe_load(CAPTIONED)["data"]["fields"]
CAPTIONS = [
    *("networks.text.pretrained=text.safetensors", "data.path=train.npz", "train.steps=3", "train.sample_every=null"),
    *("train.optimizer={kind: adam, lr: 1e-2}", "train.accumulate=2", "train.batch_size=4", "train.workers=0"),
    "train.precision=fp32",
]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["networks.text.masked=false", "conditioning.caption.null_embedding=sequence"],
        ["networks.text.masked=false", "conditioning.caption.padding=none"],
    ],
)
def test_training_from_cached_features_of_captions_is_that_from_captions(changes: list[str], tmp_path: Path) -> None:
    (tmp_path / "captioned.yaml").write_text(CAPTIONED)
    rng, spec = np.random.default_rng(0), str(tmp_path / "captioned.yaml")
    mask = np.arange(5) < rng.integers(1, 6, (70, 1))
    x, tokens = rng.standard_normal((70, 1, 4, 4)).astype(np.float32), rng.integers(2, 28, (70, 5))
    trained = {}
    for cached in (False, True):
        project = tmp_path / str(cached)
        api.emit(spec, project, None, [*CAPTIONS, *changes, f"conditioning.caption.cached={str(cached).lower()}"])
        np.savez(project / "train.npz", x=x, caption=tokens, caption_mask=mask)
        weights(spec, "text", project / "text.safetensors", None, changes)
        done = python(project, "train.py")
        assert done.returncode == 0, done.stderr
        trained[cached] = load_file(project / "runs/train/weights_raw.safetensors")
    assert sorted(trained[True]) == sorted(trained[False])
    assert max(error(a, trained[False][name]) for name, a in trained[True].items()) < 1e-3
    loss = (project / "objective.py").read_text()
    assert "caption_features" in loss and "text" not in loss  # training does not call the encoder
    kept = sum(np.load(file)[-1] for file in project.glob("train.npz.text.*.starts.npy"))
    assert kept == (0 if "conditioning.caption.padding=none" in changes else mask.sum())


def test_features_of_captions_are_computed_again_if_the_tokenizer_changes(tmp_path: Path) -> None:
    (tmp_path / "captioned.yaml").write_text(CAPTIONED)
    words = tmp_path / "words.json"
    field = f"{{shape: [5], classes: 28, medium: text, tokenizer: {words}, start: 0, end: 1}}"
    null = "conditioning.caption.null_embedding=sequence"
    options = [*CAPTIONS, f"data.fields.caption={field}", "conditioning.caption.cached=true", null]
    project, mask = tmp_path / "project", np.arange(5) < np.array([[2], [4]])
    api.emit(str(tmp_path / "captioned.yaml"), project, None, options)
    np.savez(project / "train.npz", x=np.zeros((2, 1, 4, 4), np.float32), caption=2 * mask, caption_mask=mask)
    weights(tmp_path / "captioned.yaml", "text", project / "text.safetensors", None, options)
    for changes, text in enumerate(("{}", "{ }")):
        words.write_text(text)
        done = python(project, "-m", "latentc_support.data")
        assert done.returncode == 0, done.stderr
        assert len(list(project.glob("train.npz.text.*.bin"))) == 1 + changes


def test_features_of_captions_need_a_name_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "captioned.yaml").write_text(CAPTIONED)
    changes = [CAPTIONS[0], "conditioning.caption.cached=true", "data.fields.empty_caption_features={shape: [2]}"]
    with pytest.raises(DiagnosticError, match="would be the field `empty_caption_features` of a batch"):
        load_spec(tmp_path / "captioned.yaml", None, changes)


def test_images_of_a_first_stage_have_features_of_their_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(f"images/{i}.png")
    Path("captions.csv").write_text("image,caption\n2,ab\n0,c\n2,d\n")
    Path("stage.yaml").write_text(STAGE)
    Path("captioned.yaml").write_text(CAPTIONED)
    data = "{kind: captioned_images, path: images, captions: captions.csv, per_image: 2, "
    data += f"fields: {json.dumps(CAPTIONED_FIELDS)}, "
    data += f"shape: [4, 4, 4], first_stage: {{spec: {tmp_path / 'stage.yaml'}, weights: stage.safetensors}}}}"
    options = [CAPTIONS[0], "conditioning.caption.cached=true", f"data={data}"]
    weights(tmp_path / "stage.yaml", "main", Path("stage.safetensors"))
    weights(tmp_path / "captioned.yaml", "text", Path("text.safetensors"), None, options)
    api.emit("captioned.yaml", ".", None, options, force=True)
    seen = "means=source.source.codes[source.source.picture, 0], x=source.rows(index)['x'], "
    seen += "mask=source.rows(index)['caption_mask']"
    done = python(
        tmp_path,
        "-c",
        READ.replace('"representation"', '"caption_features"').replace("first=", f"{seen}, first=") + SENT,
    )
    assert done.returncode == 0, done.stderr
    tokens = np.array([[0, 2, 3, 1, 0], [0, 4, 1, 0, 0], [0, 5, 1, 0, 0]])
    mask = np.array([[True] * 4 + [False], *[[True] * 3 + [False] * 2] * 2])
    given: Any = {"overrides": options, "network": "text", "method": "encode"}
    found = api.run_method(
        "captioned.yaml", ["text=text.safetensors"], {"tokens": tokens, "mask": mask}, "oracle", **given
    )
    with np.load("read.npz") as read:
        assert read["x"].shape == (3, 4, 4, 4) and np.array_equal(read["mask"], mask)
        assert np.array_equal(read["means"][0], read["means"][2]) and not np.allclose(
            read["means"][0], read["means"][1]
        )
        assert error(read["first"], np.where(mask[..., None], next(iter(found.values())), 0)) < 1e-4
        assert np.array_equal(read["first"], read["drawn"])
    # Latents of images that change are computed per batch, beside the cached features.
    changed = [*options, "data.views={crop: [0.5, 1.0]}", "train.workers=0", "train.batch_size=2"]
    api.emit("captioned.yaml", ".", None, changed, force=True)
    batch = "from latentc_support.config import load_config\nfrom latentc_support.data import batches, open_data\n"
    batch += "config = load_config()\n"
    done = python(tmp_path, "-c", batch + "print(*sorted(next(batches(open_data(config), config, 0, 0, 1))))")
    assert {"caption_features", "x"} < {*done.stdout.split()}, done.stderr
