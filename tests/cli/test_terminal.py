"""Names come from files of others: what they hold never drives the terminal, whichever command prints it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.files import _signed
from tiny_model import HEAD

from latentc.weights import Array, materialise, open_weights, write_safetensors
from latentc_runtime import BundleError, load

ROOT = Path(__file__).parents[2]
EVIL = "\x1b]0;owned\x07\x9b31m\r\u202e"
CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
Run = Callable[..., Any]


def clean(result: Any, *, status: tuple[int, ...] = (0, 1)) -> None:
    assert result.status in status, result.err
    for text in (result.out, result.err):
        assert not CONTROL.search(text), ascii(text)
        assert "E0901" not in text, text


def texts(data: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts in JSON."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, str):
            yield (*place, key)
        elif isinstance(value, dict | list):
            yield from texts(value, (*place, key))


def renamed(bundle: Path, folder: Path, names: set[str]) -> Path:
    """A copy of a bundle whose manifest has these texts with an escape at their end, keys included."""
    shutil.copytree(bundle, folder)
    text = (folder / "manifest.json").read_text()
    for name in names:
        text = text.replace(json.dumps(name), json.dumps(name + EVIL))
    (folder / "manifest.json").write_bytes(_signed(json.loads(text)))
    return folder


def test_a_manifest_that_describes_itself(tiny: Any, latentc: Run, tmp_path: Path) -> None:
    manifest = json.loads((tiny.bundle / "manifest.json").read_text())
    program = manifest["programs"][0]
    names = {manifest["name"], manifest["tool"], program["solver"], program["why"], *manifest["versions"].values()}
    names |= {one["name"] for kind in ("conditions", "settings") for one in manifest[kind]}
    bundle = renamed(tiny.bundle, tmp_path / "b", names)
    for line in (
        ("sample", bundle, "--class", "1", "-o", "a.png"),
        ("sample", bundle, "--given", "nothing=1", "-o", "a.png"),
        ("sample", bundle, "--setting", "nothing=1", "-o", "a.png"),
        ("sample", bundle, "--class", "1", "--program", EVIL, "-o", "a.png"),
        ("sample", bundle, "--count", "2", "--as", "folder", "-o", "set"),
        ("verify", bundle),
        ("bench", bundle, "--seconds", "0.1", "--batch", "1"),
        ("evaluate", bundle, "--count", "20", "--features", "principal"),
        ("deploy", "triton", bundle, "-o", "repo"),
        ("export", "diffusers", bundle, "-o", "diffusers"),
        ("classify", bundle, tiny.inputs),
        ("serve", bundle, "--port", "0"),
        ("show", bundle),
        ("compile", bundle, "-o", "again"),
    ):
        clean(latentc(*line))


def test_every_text_of_a_manifest(tiny: Any, latentc: Run, tmp_path: Path) -> None:
    """One at a time, also those that must be one of a few words: most are refused, with a message that shows them."""
    bundle = tmp_path / "b"
    shutil.copytree(tiny.bundle, bundle)
    whole = json.loads((bundle / "manifest.json").read_text())
    places = [place for place in texts(whole) if place != ("checksum",)]
    assert len(places) > 50
    for *parents, last in places:
        manifest = json.loads(json.dumps(whole))
        owner = manifest
        for key in parents:
            owner = owner[key]
        owner[last] += EVIL
        (bundle / "manifest.json").write_bytes(_signed(manifest))
        clean(latentc("sample", bundle, "--class", "1", "-o", "a.png"))
        try:
            load(bundle, "cpu")
        except BundleError as error:
            assert not CONTROL.search(str(error))


def test_checkpoints_specs_and_files(tiny: Any, latentc: Run) -> None:
    weights = {name: Array(materialise(expr)) for name, expr in open_weights(tiny.weights).items()}
    write_safetensors(f"w{EVIL}.safetensors", {**weights, f"more{EVIL}": Array(np.zeros(3, np.float32))})
    np.savez(f"n{EVIL}.npz", **{f"x{EVIL}": np.zeros(3)})
    names = json.dumps([f"one{EVIL}", *"23456789", "ten"])
    specs = {
        f"s{EVIL}.yaml": tiny.spec.read_text(),
        "name.yaml": tiny.spec.read_text().replace("name: tiny", f"name: {json.dumps(f'tiny{EVIL}')}"),
        "kind.yaml": HEAD.replace("kind: digits", f"kind: {json.dumps(f'digits{EVIL}')}"),
        "key.yaml": f"{HEAD}{json.dumps(f'key{EVIL}')}: 3\n",
        "classes.yaml": HEAD.replace("{kind: digits}", f"{{kind: digits, class_names: {names}}}"),
        "path.yaml": HEAD.replace("{kind: digits}", f"{{kind: npz, path: {json.dumps(f'p{EVIL}.npz')}, classes: 10}}"),
    }
    for name, text in specs.items():
        Path(name).write_text(text)
        for verb in (("check",), ("show",), ("emit", "-o", f"out{EVIL}", "--force")):
            clean(latentc(verb[0], name, *verb[1:]))
        clean(latentc("compile", name, "-w", tiny.weights, "-o", "b"))
    other = f"w{EVIL}.safetensors"
    clean(latentc("compile", tiny.spec, "-w", other, "-o", "b"), status=(1,))
    clean(latentc("weights", tiny.spec, "-w", other, "-o", f"v{EVIL}.safetensors"))
    clean(latentc("import", other, "-o", "imported"), status=(1,))
    clean(latentc("import", f"missing{EVIL}", "-o", "imported"), status=(1,))
    clean(latentc("sample", tiny.bundle, "--class", "1", "-o", f"a{EVIL}.png"), status=(0,))
    clean(latentc("sample", tiny.bundle, "--class", f"cat{EVIL}", "-o", "a.png"), status=(1,))
    clean(latentc("sample", tiny.bundle, "--class", "1", "--noise", f"n{EVIL}.npz", "-o", "a.png"), status=(1,))
    clean(latentc("evaluate", tiny.bundle, "--reference", f"n{EVIL}.npz"), status=(1,))
    clean(latentc("evaluate", f"a{EVIL}.png"), status=(1,))
    clean(latentc("forward", tiny.spec, "-w", tiny.weights, "-i", f"n{EVIL}.npz", "-o", "o.npz"), status=(1,))
    clean(latentc("explain", f"E{EVIL}"), status=(1,))
    clean(latentc("specs", f"x{EVIL}"), status=(1,))
    clean(latentc(f"verb{EVIL}"), status=(1,))


def test_only_the_console_writes_to_the_streams() -> None:
    """What prints past `echo`, `warn` and `render` would not be cleaned."""
    written = re.compile(r"\bprint\(|\bstd(?:out|err)\.write\(|\btyper\.echo\(|set_description\(")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("compiler/latentc", "runtime/latentc_runtime")
        for path in (ROOT / folder).rglob("*.py")
        if written.search(path.read_text())
    }
    console = {"compiler/latentc/cli/__init__.py", "compiler/latentc/cli/_shared.py"}
    logs = {"compiler/latentc/api/sweep_trial.py"}  # writes the log of a trial, a file
    downloads = {"compiler/latentc/weights/download.py"}  # says what it downloads, cleaned
    assert found == {*console, *logs, *downloads, "runtime/latentc_runtime/serve/__main__.py"}


def test_warnings_of_python_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentc import cli

    text = cli._formatted(UserWarning(f"the bundle {EVIL}\nis old"), UserWarning, "a.py", 3)
    assert not CONTROL.search(text) and text.startswith("warning: the bundle ") and text.endswith("\nis old\n")
