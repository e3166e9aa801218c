"""Default weights of networks, in specs with several of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import HEAD, write_random_weights

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec, resolved_yaml, spec_from_text
from latentc.weights import Array, materialise, open_weights, write_safetensors

REST = """\
networks: {weak: {kind: like}}
objective: {kind: diffusion}
sampler: {kind: ddim, steps: 2, guidance: {kind: autoguidance, network: weak, scale: 2.0}}
checkpoints:
  main: {weights: files/both.safetensors, key: main}
  weak: {weights: files/both.safetensors, key: weak}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(HEAD + REST)
    (tmp_path / "files").mkdir()
    write_random_weights(file, tmp_path / "files/both.safetensors", 0.1)
    return file


def written(spec: Path, weights: object, overrides: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The weights that commands take."""
    to = spec.parent / "out.safetensors"
    api.convert_weights(spec, weights, to, overrides=overrides)  # type: ignore[arg-type]
    return {name: np.array(materialise(tensor)) for name, tensor in open_weights(to).items()}


def test_each_network_has_its_part_of_a_file(spec: Path) -> None:
    both = {n: np.array(materialise(e)) for n, e in open_weights(spec.parent / "files/both.safetensors").items()}
    made = written(spec, None)
    assert made.keys() == both.keys() and all(np.array_equal(made[name], both[name]) for name in both)


def test_a_file_for_one_network_leaves_the_others_theirs(spec: Path) -> None:
    before = written(spec, None)
    other = {n.removeprefix("weak."): Array(a + 1) for n, a in before.items() if n.startswith("weak.")}
    write_safetensors(spec.parent / "other.safetensors", other)
    made = written(spec, [f"weak={spec.parent / 'other.safetensors'}"])
    assert all(np.array_equal(made[n], a + n.startswith("weak.")) for n, a in before.items())
    given = written(spec, spec.parent / "files/both.safetensors")
    assert all(np.array_equal(given[n], a) for n, a in before.items())


def test_a_default_can_be_removed(spec: Path) -> None:
    with pytest.raises(DiagnosticError) as error:
        written(spec, None, ("checkpoints.weak=null",))
    assert error.value.diagnostics[0].code == "E0415"
    assert "`checkpoints:` in the spec" in str(error.value)


def test_paths_are_full_in_a_resolved_spec_and_absent_from_a_bundle(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = spec_from_text(resolved_yaml(load_spec(spec)))
    assert again.checkpoints["main"].weights == str((tmp_path / "files/both.safetensors").resolve())
    monkeypatch.chdir(tmp_path / "files")
    api.compile(spec, None, tmp_path / "bundle", run=False)
    assert not load_spec(tmp_path / "bundle/spec.yaml").checkpoints
    assert "both.safetensors" in (tmp_path / "bundle/manifest.json").read_text()
    extending = tmp_path / "files/other.yaml"
    extending.write_text("latentc: 1\nname: other\nextends: ../tiny.yaml\n")
    api.convert_weights(extending, None, tmp_path / "again.safetensors")


def test_a_folder_beside_a_shipped_spec_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dit").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_spec("dit").name == "dit"
