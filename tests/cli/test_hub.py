"""Models on the Hugging Face Hub: pushed, pulled and read as weights, from a stand-in of it and from its cache."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hub_server import Hub, serving
from PIL import Image
from tiny_model import write_random_weights

from latentc import api
from latentc.api._common import lowered_spec
from latentc.api.training import emitted_project
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec
from latentc.weights.hub import _downloaded, is_hub, local, place

constants = pytest.importorskip("huggingface_hub.constants")
REPORT = {
    "name": "tiny",
    "samples": "40 samples",
    "reference": "held-out data",
    "features": "principal components",
    "extractors": {"principal": "principal 7"},
    "figures": {"fd_principal": {"better": "lower", "about": "a distance"}},
    "runs": [
        {"guidance": 1.0, "figures": {"fd_principal": 9.0}},
        {"guidance": 2.0, "figures": {"fd_principal": 3.25}},
    ],
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _downloaded.cache_clear()
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    _downloaded.cache_clear()


@pytest.fixture
def project(tiny, tmp_path: Path) -> Path:
    """What training leaves, in short."""
    run = tmp_path / "project" / "runs" / "train"
    (run / "samples").mkdir(parents=True)
    shutil.copy(tiny.weights, run / "weights.safetensors")
    Image.new("L", (8, 8)).save(run / "samples" / "00000003.png")
    (run / "class_names.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    return tmp_path / "project"


def test_a_bundle_goes_there_and_back(hub, latentc, tiny, tmp_path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "metrics.json").write_text(json.dumps(REPORT))
    done = latentc("push", tiny.bundle, "me/tiny", "--licence", "mit", "--report", "report")
    assert (done.status, done.err) == (0, "")
    held = hub.repositories["me/tiny"]
    assert done.out == f"{hub.url}/me/tiny: {', '.join(sorted(set(held) - {'.gitattributes'}))}\n"
    card = held["README.md"].decode()
    for text in ("license: mit", "3.25", "principal 7", "held-out data", "![samples]", "latentc pull me/tiny"):
        assert text in card
    assert " 9 |" not in card  # the best guidance alone
    assert any(asked.startswith("PUT ") for asked in hub.asked)  # large files went the way of large files
    found = latentc("pull", "me/tiny", "-o", "here/back")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith("here/back: bundle")
    assert np.array_equal(api.sample("here/back", "3"), api.sample(tiny.bundle, "3"))
    assert sorted(path.name for path in Path("here").iterdir()) == ["back"]
    assert latentc("pull", "me/tiny", "-o", "here/back").err.startswith("error[E0412]")


def test_a_trained_project_goes_there_and_is_compiled_from_there(
    hub, latentc, tiny, project, tmp_path, monkeypatch
) -> None:
    done = latentc("push", project, "me/weights", "--spec", tiny.spec, "--private", "--json")
    assert done.status == 0
    assert "states no licence" in done.err
    held = hub.repositories["me/weights"]
    assert json.loads(done.out)["files"] == sorted(set(held) - {".gitattributes"})
    assert "after 3 steps" in held["README.md"].decode()
    (tmp_path / "model.safetensors").write_bytes(held["model.safetensors"])
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as opened:
        assert opened.metadata()["spec"] == "tiny"
    assert str(tmp_path) not in held["spec.yaml"].decode()
    assert latentc("pull", "me/weights").out.startswith("weights: spec; next: latentc compile weights/spec.yaml")
    manifest = api.compile("weights/spec.yaml", None, "a", run=False)
    assert manifest.conditions[0].names == tuple(f"digit {i}" for i in range(10))
    asked = len(hub.asked)
    taken: list[str] = []
    written = api.convert_weights(tiny.spec, "hub:me/weights", "x.safetensors", taken=taken)
    assert len(hub.asked) > asked
    assert written[Path("x.safetensors")] == len(safetensors.safe_open(tiny.weights, "numpy").keys())
    # Now the cache alone.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _downloaded.cache_clear()
    asked = len(hub.asked)
    for text in ("hub:me/weights", "main=hub:me/weights/model.safetensors"):
        inputs = np.load(tiny.inputs)
        values = [api.forward(tiny.spec, weights, inputs) for weights in (text, tiny.weights)]
        assert np.array_equal(*values)
    with pytest.raises(DiagnosticError, match="E0425"):
        local("hub:me/other")
    assert len(hub.asked) == asked


def test_a_first_stage_goes_with_its_model(hub, project, tmp_path, monkeypatch) -> None:
    """What is pulled decodes with the pushed autoencoder, wherever the spec and the weights of that one lay."""
    monkeypatch.chdir(tmp_path)
    stage = "backbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4, bottleneck: {channels: 4}}"
    Path("stage.yaml").write_text(f"latentc: 1\nname: stage\nextends: sd_vae\n{stage}\n")
    write_random_weights(Path("stage.yaml"), Path("stage.safetensors"), 0.1)
    overrides = ["data.shape=[4, 4, 4]", "data.classes=10", "backbone.width=16", "backbone.depth=1", "sampler.steps=2"]
    overrides += ["backbone.block.mixer.heads=2", "data.first_stage.names=null", "data.first_stage.spec=stage.yaml"]
    Path("own.yaml").write_text(api.resolved("dit", overrides=overrides))
    weights = project / "runs" / "train" / "weights.safetensors"
    write_random_weights(Path("own.yaml"), weights, 0.1)
    stored = ["data.first_stage.weights=stage.safetensors"]
    api.push(project, "me/own", "own.yaml", overrides=stored)
    api.compile("own.yaml", weights, "a", overrides=stored, check=False)
    expected = api.sample("a", "1")
    Path("stage.yaml").unlink()
    Path("stage.safetensors").unlink()
    folder, kind = api.pull("me/own")
    assert (folder, kind) == (Path("own"), "spec")
    api.compile("own/spec.yaml", None, "b", check=False)
    assert np.array_equal(api.sample("b", "1"), expected)


def test_a_project_keeps_its_spec(hub, latentc, tiny, tmp_path, monkeypatch) -> None:
    """Emitted with settings, a project is pushed without naming them, with its first stage and class names."""
    monkeypatch.chdir(tmp_path)
    Path("sets").mkdir()
    stage = "backbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4, bottleneck: {channels: 4}}"
    Path("sets/stage.yaml").write_text(f"latentc: 1\nname: stage\nextends: sd_vae\n{stage}\n")
    write_random_weights(Path("sets/stage.yaml"), Path("sets/stage.safetensors"), 0.1)
    first = "first_stage: {spec: stage.yaml, names: null, weights: stage.safetensors}"
    data = f"data: {{shape: [4, 4, 4], classes: 10, class_names: [{', '.join('abcdefghij')}], {first}}}"
    backbone = "backbone: {depth: 1, block: {mixer: {heads: 2}}}"
    Path("sets/own.yaml").write_text(f"latentc: 1\nextends: dit\nname: own\n{data}\n{backbone}\n")
    api.emit("sets/own.yaml", "project", overrides=["backbone.width=16", "sampler.steps=2"])
    assert "class_names: class_names.txt" in Path("project/latentc_support/spec.yaml").read_text()
    run = Path("project/runs/train")
    run.mkdir(parents=True)
    write_random_weights(Path("project/latentc_support/spec.yaml"), run / "weights.safetensors", 0.1)
    for source in ("project", run):
        hub.repositories.clear()
        done = latentc("push", source, "me/own", "--licence", "mit")
        assert (done.status, done.err) == (0, "")
    held = hub.repositories["me/own"]
    assert {"spec.yaml", "model.safetensors", "first_stage/spec.yaml", "first_stage/model.safetensors"} <= held.keys()
    assert not any(str(tmp_path) in content.decode() for name, content in held.items() if name.endswith(".yaml"))
    api.pull("me/own")
    manifest = api.compile("own/spec.yaml", None, "b", check=False)
    assert manifest.conditions[0].names == tuple("abcdefghij")
    assert api.sample("b", "1").shape[1:] == (3, 8, 8)


def test_another_target_does_not_make_another_project(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, lowered = lowered_spec(tiny.spec, None, ())
    emitted_project(lowered, load_spec(tiny.spec), Path("project"))
    emitted_project(lowered, load_spec(tiny.spec, None, ["target.max_batch=2"]), Path("project"))
    with pytest.raises(DiagnosticError, match="E0709"):
        emitted_project(lowered, load_spec(tiny.spec, None, ["train.batch_size=4"]), Path("project"))


def test_a_pushed_bundle_has_no_paths_of_this_machine(hub, latentc, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", x=np.zeros((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    changes = [f"data={{kind: npz, path: {tmp_path}/set.npz, classes: 10, shape: [1, 8, 8]}}"]
    api.compile(tiny.spec, tiny.weights, "bundle", overrides=changes)
    assert str(tmp_path) in Path("bundle/spec.yaml").read_text()
    assert latentc("push", "bundle", "me/tiny", "--licence", "mit").status == 0
    held = hub.repositories["me/tiny"]
    assert "path: data/set.npz" in held["spec.yaml"].decode()
    assert not any(str(tmp_path).encode() in content for content in held.values())
    api.pull("me/tiny", "back")  # the checksums are those of the files
    assert np.array_equal(api.sample("back", "3"), api.sample("bundle", "3"))
    assert api.compile("back/spec.yaml", tiny.weights, "again").name == "tiny"


def test_a_spec_names_weights_on_the_hub(hub, tiny, tmp_path, monkeypatch) -> None:
    hub.repositories["me/tiny"] = {"model.safetensors": tiny.weights.read_bytes(), "model.bin": b"unread"}
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(
        f"latentc: 1\nextends: {tiny.spec}\nname: own\ncheckpoints: {{main: {{weights: hub:me/tiny}}}}\n"
    )
    assert "hub:me/tiny" in api.resolved("own.yaml")
    assert not hub.asked  # a check downloads nothing
    inputs = np.load(tiny.inputs)
    assert np.array_equal(api.forward("own.yaml", None, inputs), api.forward(tiny.spec, tiny.weights, inputs))
    assert not any("model.bin" in asked for asked in hub.asked)
    project = api.emit(tiny.spec, "project", overrides=["backbone.pretrained=hub:me/tiny", "backbone.frozen=false"])[
        0
    ].parent
    assert "model.safetensors" in (project / "config.yaml").read_text()


def test_the_weights_of_a_bundle_are_read(hub, tiny) -> None:
    hub.repositories["me/tiny"] = {
        "weights/dit.safetensors": tiny.weights.read_bytes(),
        "weights/derived.safetensors": b"",
    }
    inputs = np.load(tiny.inputs)
    assert np.array_equal(api.forward(tiny.spec, "hub:me/tiny", inputs), api.forward(tiny.spec, tiny.weights, inputs))


def test_an_interrupted_download_goes_on(hub, tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.repositories["me/tiny"] = {"model.safetensors": tiny.weights.read_bytes()}
    hub.cut = 1000
    assert local("hub:me/tiny/model.safetensors").read_bytes() == tiny.weights.read_bytes()
    assert "range 1000" in hub.asked


def test_a_damaged_bundle_is_not_pulled(hub, tiny, latentc) -> None:
    files = {str(p.relative_to(tiny.bundle)): p for p in tiny.bundle.rglob("*") if p.is_file()}
    hub.repositories["me/tiny"] = {name: path.read_bytes() for name, path in files.items()}
    hub.repositories["me/tiny"]["spec.yaml"] += b"#"
    assert latentc("pull", "me/tiny").err.startswith("error[E0604]")
    assert not list(Path().glob("*tiny*"))


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("pull me/nothing", "E0425", "Not Found"),
        ("pull nothing", "E0425", "names no repository"),
        ("pull me/../../x", "E0425", "names no repository"),
        ("pull me/tiny/model.safetensors", "E0425", "names a file"),
        ("push BUNDLE me/tiny/x", "E0426", "names a file"),
        ("push . me/tiny", "E0426", "no bundle and no trained weights"),
        ("push PROJECT me/tiny", "E0701", "--spec"),
        ("push PROJECT me/tiny --spec digits_dit", "E0410", "do not fit"),
        ("push BUNDLE me/tiny --spec digits_dit", "E0701", "own spec"),
        ("push BUNDLE me/tiny --report nowhere", "E0401", "no such report"),
        ("push BUNDLE me/tiny --report bad.json", "E0403", "not the report"),
        ("push BUNDLE me/tiny --samples none.png", "E0401", "none.png"),
        ("weights digits_dit -w hub:me/empty -o x.safetensors", "E0425", "no weights at its top"),
        ("weights digits_dit -w hub:me/empty/a.safetensors -o x.safetensors", "E0425", "failed"),
    ],
)
def test_mistakes(hub, latentc, tiny, project, line: str, code: str, words: str) -> None:
    hub.repositories["me/empty"] = {"README.md": b"nothing"}
    Path("bad.json").write_text('{"runs": []}')
    names = {"BUNDLE": tiny.bundle, "PROJECT": project}
    found = latentc(*(names.get(word, word) for word in line.split()))
    assert (found.status, found.err[:12]) == (1, f"error[{code}]")
    assert words in found.err
    assert "me/tiny" not in hub.repositories


def test_who_may_not_write_is_told(hub, latentc, tiny) -> None:
    hub.token = "another"
    found = latentc("push", tiny.bundle, "me/tiny", "--samples", Path(__file__))
    assert found.err.startswith("error[E0426]")
    assert "HF_TOKEN" in found.err
    assert "hf_secret" not in found.err


def test_places() -> None:
    assert place("hub:a/b@v1/c/d.pt") == ("a/b", "v1", "c/d.pt")
    assert place("a/b.c") == ("a/b.c", None, None)
    assert is_hub("hub:a/b")
    assert not is_hub("a/b")
