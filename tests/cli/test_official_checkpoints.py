"""Official checkpoints by name: downloaded, resumed, verified, cached, and read by the spec that names them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, serving

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import variant_names
from latentc.spec.official import catalogue
from latentc.weights import open_weights
from latentc.weights.hub import _downloaded

constants = pytest.importorskip("huggingface_hub.constants")
MAP = """\
weights:
  official:
    main:
      - {from: "theirs.*", to: "*"}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    _downloaded.cache_clear()
    with serving() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        template = made.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield made
    _downloaded.cache_clear()


@pytest.fixture
def content(tiny, server: Hub, tmp_path: Path) -> bytes:
    """An official checkpoint of the spec own.yaml, also served as /tiny.pt; its names begin with `theirs.`."""
    Path("plain.yaml").write_text(f"latentc: 1\nextends: {tiny.spec}\nname: own\n{MAP}")
    api.convert_weights("plain.yaml", tiny.weights, "official.safetensors", to_names="official")
    server.files["/tiny.pt"] = Path("official.safetensors").read_bytes()
    return write_spec(server, tiny)


def write_spec(server: Hub, tiny, **facts: str) -> bytes:
    entry = {"weights": f"{server.url}/tiny.pt", "names": "official", "licence": "CC0-1.0", "source": "a page", **facts}
    section = f"official: {json.dumps({'own-tiny': entry})}\nvariants: {{wide: {{backbone: {{width: 48}}}}}}\n"
    Path("own.yaml").write_text(f"latentc: 1\nextends: {tiny.spec}\nname: own\n{MAP}{section}")
    return server.files["/tiny.pt"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(weights: str, tiny, spec: str = "own.yaml") -> None:
    """Asserts that a network computes with the official weights what it computes with our file."""
    inputs = np.load(tiny.inputs)
    assert np.array_equal(api.forward(spec, weights, inputs), api.forward(tiny.spec, tiny.weights, inputs))


def test_a_checkpoint_is_downloaded_once_and_used_offline(tiny, server, content, latentc, monkeypatch) -> None:
    done = latentc("compile", "own.yaml", "-w", "official:own-tiny", "-o", "a")
    assert done.status == 0, done.err
    digest = hashlib.sha256(content).hexdigest()
    assert f"own-tiny: downloading {server.url}/tiny.pt ({len(content) / 1e3:.0f} kB, licence: CC0-1.0)" in done.err
    assert f"own-tiny: sha256 {digest}, recorded" in done.err
    manifest = json.loads(Path("a/manifest.json").read_text())
    assert manifest["weights"]["file"] == "official:own-tiny"
    assert "own-tiny" not in Path("a/spec.yaml").read_text()
    held = Path("cache/official/own-tiny.pt")
    assert held.read_bytes() == content
    assert sorted(file.name for file in held.parent.iterdir() if file.suffix != ".lock") == ["own-tiny.json", held.name]
    asked = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    read("official:own-tiny", tiny)
    read("main=official:own-tiny", tiny)
    assert np.array_equal(api.sample("a", "1", per_class=1), api.sample(tiny.bundle, "1", per_class=1))
    assert len(server.asked) == asked
    held.unlink()
    done = latentc("pull", "official:own-tiny")
    assert (done.status, done.err[:12]) == (1, "error[E0427]")  # only specs that ship or that a command names are known
    with pytest.raises(DiagnosticError, match="offline mode is enabled"):
        read("official:own-tiny", tiny)


def test_a_broken_download_goes_on(tiny, server, content) -> None:
    server.cut = 1000
    read("official:own-tiny", tiny)  # in one command
    assert "range 1000" in server.asked
    server.files["/tiny.pt"] = content
    Path("cache/official/own-tiny.pt").unlink()
    server.cut, server.fails_after_cut, server.asked = 3000, True, []
    with pytest.raises(DiagnosticError, match="E0428") as caught:
        read("official:own-tiny", tiny)
    assert "try again: it goes on where it stopped" in str(caught.value.diagnostics[0].help)
    part = Path("cache/official/own-tiny.pt.part")
    assert part.stat().st_size == 3000 and not Path("cache/official/own-tiny.pt").exists()
    server.down, server.asked = False, []
    read("official:own-tiny", tiny)  # in the next command
    assert "range 3000" in server.asked
    assert not part.exists()


def test_a_file_that_changed_since_is_not_mixed(tiny, server, content) -> None:
    """The rest of another version is never added to what was downloaded of the first."""
    folder = Path("cache/official")
    folder.mkdir(parents=True)
    (folder / "own-tiny.pt.part").write_bytes(b"of another version" * 20)
    (folder / "own-tiny.pt.part.json").write_text(json.dumps({"url": f"{server.url}/tiny.pt", "etag": "old"}))
    read("official:own-tiny", tiny)
    assert not any(asked.startswith("range") for asked in server.asked)


def test_damage_is_refused_and_leaves_nothing(tiny, server, content, capsys) -> None:
    digest = hashlib.sha256(content).hexdigest()
    write_spec(server, tiny, sha256=digest)
    server.files["/tiny.pt"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DiagnosticError, match="E0428") as caught:
        read("official:own-tiny", tiny)
    assert digest in str(caught.value)
    assert [file.suffix for file in Path("cache/official").iterdir()] in ([], [".lock"])
    server.files["/tiny.pt"] = content
    read("official:own-tiny", tiny)
    assert f"sha256 {digest}, as published" in capsys.readouterr().err
    held = Path("cache/official/own-tiny.pt")
    held.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # on the disk, later
    with pytest.raises(DiagnosticError, match=r"(?s)E0428.*delete it"):
        read("official:own-tiny", tiny)
    write_spec(server, tiny, sha256=digest[:8])  # of some files only the first digits are published
    held.write_bytes(content)
    read("official:own-tiny", tiny)


def test_the_recorded_content_is_compared(tiny, server, content) -> None:
    read("official:own-tiny", tiny)
    Path("cache/official/own-tiny.pt").unlink()
    server.files["/tiny.pt"] = content + b" "
    with pytest.raises(DiagnosticError, match=r"(?s)E0428.*own-tiny\.json"):
        read("official:own-tiny", tiny)
    server.files["/tiny.pt"] = b"<!DOCTYPE html><p>are you sure?"
    with pytest.raises(DiagnosticError, match="is a web page"):
        read("official:own-tiny", tiny)
    server.files["/tiny.pt"] = content
    read("official:own-tiny", tiny)


def test_the_network_is_compared_before_the_download(tiny, server, content, latentc) -> None:
    for line in ("compile own.yaml --variant wide -o a", "weights own.yaml --variant wide -o b.safetensors"):
        done = latentc(*line.split(), "-w", "official:own-tiny")
        assert done.err.startswith("error[E0410]")
        assert "it is for `own.yaml`" in done.err
        assert "the network has [11, 48], the checkpoint [11, " in done.err
    assert not server.asked


def test_a_checkpoint_on_the_hub_and_in_a_spec(tiny, server, content) -> None:
    server.repositories["me/tiny"] = {"model.safetensors": content}
    write_spec(server, tiny, weights="hub:me/tiny/model.safetensors", sha256=hashlib.sha256(content).hexdigest()[:16])
    text = Path("own.yaml").read_text()
    Path("own.yaml").write_text(f"{text}checkpoints: {{main: {{weights: official:own-tiny}}}}\n")
    api.check("own.yaml")
    assert not server.asked
    inputs = np.load(tiny.inputs)
    assert np.array_equal(api.forward("own.yaml", None, inputs), api.forward(tiny.spec, tiny.weights, inputs))
    write_spec(server, tiny, weights="hub:me/tiny/model.safetensors", sha256="0" * 64)
    Path("cache/official/own-tiny.json").unlink()
    with pytest.raises(DiagnosticError, match="E0428"):
        read("official:own-tiny", tiny)


def test_training_starts_from_a_checkpoint(tiny, server, content) -> None:
    """A project reads a copy under latentc's names."""
    overrides = ["backbone.pretrained=official:own-tiny", "backbone.frozen=false"]
    folder = api.emit("own.yaml", "project", overrides=overrides)[0].parent
    (line,) = [line for line in (folder / "config.yaml").read_text().splitlines() if "pretrained" in line]
    copy = Path(line.partition("pretrained:")[2].partition("}")[0].split(",")[0].strip(" \"'"))
    ours = open_weights(tiny.weights)
    assert {name: one.shape for name, one in open_weights(copy).items()} == {n: one.shape for n, one in ours.items()}


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("compile own.yaml -w official:own-tyni -o a", "E0427", "did you mean `official:own-tiny`?"),
        ("compile dit -w official:dit-xl-2-265 -o a", "E0427", "did you mean `official:dit-xl-2-256`?"),
        ("compile dit -w official:zzz -o a", "E0427", "latentc specs --weights"),
        ("compile uvit --variant H/2-256 -w official:uvit-h-2-256 -o a", "E0427", "drive.google.com"),
        ("compile dit --variant S/2 -w official:dit-xl-2-256 -o a", "E0410", "dit --variant XL/2"),
        ("pull official:dit-xl-2-265", "E0427", "dit-xl-2-256"),
        ("pull official:uvit-h-2-256 -o a", "E0701", "leave `-o` out"),
        ("import official:dit-xl-2-256 -o a", "E0427", "not for a file"),
        ("check own.yaml --set checkpoints.main.weights=official:own-tyni", "E0427", "official:own-tiny"),
        ("check own.yaml --set official.own-tiny.names=oficial", "E0703", "oficial"),
        ("check own.yaml --set official.own-tiny.network=man", "E0415", "man"),
        ("check own.yaml --set official.own-tiny.weights=tiny.pt", "E0209", "official.own-tiny.weights"),
        ("check named.yaml", "E0427", "choose another name"),
    ],
)
def test_mistakes(tiny, server, content, latentc, line: str, code: str, words: str) -> None:
    Path("named.yaml").write_text(Path("own.yaml").read_text().replace("own-tiny", "dit-xl-2-256"))
    done = latentc(*line.split())
    assert (done.status, done.err[:12]) == (1, f"error[{code}]"), done.err
    assert words in done.err
    assert not server.asked


def test_no_place_to_keep_it(tiny, server, content, monkeypatch) -> None:
    monkeypatch.setenv("LATENTC_CACHE", "off")
    with pytest.raises(DiagnosticError, match=r"(?s)E0428.*LATENTC_CACHE"):
        read("official:own-tiny", tiny)


def test_the_names_are_listed(latentc) -> None:
    (line,) = [line for line in latentc("specs", "--weights").out.splitlines() if line.startswith("dit-xl-2-256")]
    assert line.split() == [
        *("dit-xl-2-256", "dit", "--variant", "XL/2", "2.7", "GB", "CC-BY-NC-4.0"),
        "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt",
    ]
    assert json.loads(latentc("specs", "--weights", "--json").out)["dit-xl-2-256"]["names"] == "official"


def test_shipped_entries() -> None:
    """Each names a variant of its spec, and no name comes twice; rules of the schema are checked with the spec."""
    found = catalogue()
    assert len(found) > 100
    for spec in {one.spec for one in found.values()}:
        variants = {None, *variant_names(spec)}
        named = {one.given.variant for one in found.values() if one.spec == spec}
        assert named <= variants, spec
    from latentc.files.shipped import shipped_specs

    lines = [line for path in shipped_specs().values() for line in path.read_text().splitlines()]
    assert sum(line.startswith("    licence: ") for line in lines) == len(found)
