"""A second compile of what has not changed builds nothing; whatever has changed is built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from latentc.api import unchanged
from latentc.export.store import FileTensors
from latentc_runtime.bundle import open_bundle
from latentc_runtime.hashes import identity

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made by these tests count as old enough."""
    monkeypatch.setattr(unchanged, "settled", lambda status: True)


@pytest.fixture
def line(tiny: Any, tmp_path: Path, latentc: Run) -> list[str]:
    """A command that compiles to `out`, run once."""
    shutil.copy(tiny.spec, tmp_path / "tiny.yaml")
    shutil.copy(tiny.weights, tmp_path / "w.safetensors")
    words = ["compile", "tiny.yaml", "-w", "w.safetensors", "-o", "out", "--json"]
    assert rebuilt(latentc(*words))
    return words


def rebuilt(result: Any) -> bool:
    assert result.status == 0, result.err
    return bool(json.loads(result.out)["rebuilt"])


def test_nothing_is_built_again(latentc: Run, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> dict[Path, str]:
        return {path: identity(path.stat()) for path in Path("out").rglob("*")}

    before = state()
    with monkeypatch.context() as patch:
        patch.setattr("latentc.lower.lower", lambda *args: pytest.fail("it was lowered"))
        assert not rebuilt(latentc(*line))
        assert latentc(*line[:-1]).out.startswith("out: up to date: ddim, 3 steps, form unroll (")
    assert state() == before
    assert rebuilt(latentc(*line, "--rebuild"))
    assert not rebuilt(latentc(*line))


@pytest.mark.parametrize(
    "words",
    ["--form host", "--steps 2", "--steps 3,2", "--max-batch 2", "--by-reference", "--set sampler.eta=0.5", "-o new"],
)
def test_another_request_is_built(latentc: Run, line: list[str], words: str) -> None:
    changed = [*line, *words.split()]
    assert rebuilt(latentc(*changed))
    assert not rebuilt(latentc(*changed))


def test_the_same_spec_in_other_words_is_not(latentc: Run, line: list[str]) -> None:
    spec = Path("tiny.yaml")
    spec.write_text("# a remark\n" + spec.read_text().replace("steps: 3, guidance", "steps: 3,   guidance"))
    assert not rebuilt(latentc(*line))


def test_changed_weights_are(latentc: Run, line: list[str]) -> None:
    file = Path("w.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("weight"))
    save_file({**weights, name: weights[name] + np.float32(1)}, file)
    first = {name: entry.sha256 for name, entry in open_bundle("out").manifest.files.items()}
    assert rebuilt(latentc(*line))
    assert {name: entry.sha256 for name, entry in open_bundle("out").manifest.files.items()} != first


@pytest.mark.parametrize("by_reference", [[], ["--by-reference"]])
def test_weights_that_are_replaced_meanwhile_are_refused(
    latentc: Run, line: list[str], by_reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*arguments: Any) -> Any:
        shutil.copy("w.safetensors", "newer")
        Path("newer").rename("w.safetensors")  # as training writes it
        return store_write(*arguments)

    store_write = FileTensors.write
    monkeypatch.setattr(FileTensors, "write", replaced)
    before = Path("out/manifest.json").read_bytes()
    result = latentc(*line, *by_reference, "--rebuild")
    assert result.status == 1 and "E0413" in result.err and "w.safetensors" in result.err
    assert Path("out/manifest.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["spec.yaml", "weights/w.safetensors", "manifest.json"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_bundle_is(latentc: Run, line: list[str], damage: str, gone: bool) -> None:
    file = Path("out") / damage
    if gone and damage != "manifest.json":  # without it, it is no bundle, and not ours to replace
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
    assert rebuilt(latentc(*line))
    assert not rebuilt(latentc(*line))


def test_referenced_weights_count(latentc: Run, line: list[str]) -> None:
    light = [*line, "--by-reference"]
    assert rebuilt(latentc(*light))
    Path("w.safetensors").rename("elsewhere")
    assert latentc(*light).status == 1
    shutil.copy("elsewhere", "w.safetensors")
    assert rebuilt(latentc(*light))


def test_shards_count(latentc: Run, line: list[str]) -> None:
    weights = load_file("w.safetensors")
    shards = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    Path("shards").mkdir()
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, Path("shards") / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    Path("shards/model.safetensors.index.json").write_text(json.dumps(index))
    for given in ("shards", "shards/model.safetensors.index.json"):
        words = ["compile", "tiny.yaml", "-w", given, "-o", "sharded", "--json"]
        assert rebuilt(latentc(*words))
        assert not rebuilt(latentc(*words))
        shutil.copy("shards/b.safetensors", "shards/b")
        Path("shards/b").replace("shards/b.safetensors")
        assert rebuilt(latentc(*words))


def test_another_version_of_the_compiler_builds(latentc: Run, line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unchanged, "_code", lambda: "changed")
        assert rebuilt(latentc(*line))
    assert rebuilt(latentc(*line))
    with monkeypatch.context() as patch:
        patch.setattr(unchanged, "versions", lambda engine: {"onnx": "99"})
        assert rebuilt(latentc(*line))


def test_weights_written_a_moment_ago_are_never_sure(
    latentc: Run, line: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "settled", lambda status: False)
    assert rebuilt(latentc(*line))
    assert open_bundle("out").manifest.made_from == ""
    assert rebuilt(latentc(*line))
