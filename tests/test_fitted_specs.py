"""`latentc init --data` writes specs that fit the data, and `check --data` compares the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_datasets_people_have import KINDS, png

from latentc import api
from latentc.api import reading
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec
from latentc.survey import Survey
from latentc.survey.machine import Machine
from latentc.survey.mirrored import why_not_mirrored

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 36, 40, 3), np.uint8)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores of a usual speed, whatever this machine is."""
    monkeypatch.setattr("latentc.survey.machine.this_machine", lambda: Machine("2 CPU cores", 3e10, False))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of cats and dogs; the working directory."""
    for i, pixels in enumerate(PIXELS):
        (place := tmp_path / "pets" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(png(pixels))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_spec_fits_a_folder(folder: Path, capsys: Any) -> None:
    (folder / "pets/cat/cut.png").write_bytes(png(PIXELS[0])[:-300])
    assert run(["init", "my", "--data", "pets"]) == 0
    spec = load_spec("my.yaml")
    assert (spec.data.kind, spec.data.classes, spec.data.shape) == ("image_folder", 2, (3, 36, 36))
    assert spec.train.batch_size == 4 and 300 <= spec.train.steps <= 20_000
    settings = spec.data.settings()
    assert (settings["path"], settings["damaged"]) == (str(folder / "pets"), "skip") and settings["horizontal_flip"]
    text = Path("my.yaml").read_text()
    assert "# cat, dog" in text and "# 1 of 9 cannot be read" in text and "2 CPU cores" in text
    assert "short sides are 36 pixels" in text and not any("\ue000" <= c <= "\uf8ff" for c in text)
    capsys.readouterr()
    assert run(["check", "my.yaml"]) == 0 and not capsys.readouterr().err
    assert run(["check", "my.yaml", "--data"]) == 0
    assert "1 of 9 samples are damaged: " in capsys.readouterr().err
    assert run(["init", "my", "--data", "pets"]) == 1, "it does not overwrite"


def test_a_path_is_relative_to_the_spec(folder: Path) -> None:
    api.init("my", path="specs/my.yaml", data="pets")
    assert "path: ../pets" in Path("specs/my.yaml").read_text()
    api.check("specs/my.yaml", data=True)


@pytest.mark.parametrize("system", ["sit", "edm", "tarflow", "maskgit"])
def test_any_system_fits(system: str, folder: Path) -> None:
    """In its small form for digits where that is of images, else at its published size."""
    api.init("my", system, data="pets")
    spec = api.check("my.yaml")
    assert (spec.data.kind, spec.data.classes) == ("image_folder", 2)
    assert "8 × 8" not in Path("my.yaml").read_text(), "a comment on the digits"


@pytest.mark.parametrize("system", ["sit", "edm", "adm"])
def test_data_without_classes_gives_a_model_without_classes(system: str, folder: Path) -> None:
    api.init("my", system, data="pets/cat")
    spec = api.check("my.yaml", data=True)
    assert spec.data.classes == 0 and not any(one.kind == "label" for one in spec.conditioning.values())


@pytest.mark.parametrize("kind", ["parquet", "webdataset", "imagenet"])
def test_a_spec_fits_every_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / "set")
    api.init("my", data="set")
    spec = api.check("my.yaml")
    assert (spec.data.kind, spec.data.classes, spec.data.shape) == (kind, 3, (3, 8, 8))


def test_larger_machines_get_larger_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name, machine in {"slow": Machine("a", 1e8, False), "gpu": Machine("b", 2e13, True)}.items():
        monkeypatch.setattr("latentc.survey.machine.this_machine", lambda machine=machine: machine)
        api.init(name, data="pets")
        spec: Any = load_spec(f"{name}.yaml")
        found[name] = (spec.networks["main"].width, spec.data.shape[-1])
        api.check(f"{name}.yaml")
    assert found == {"slow": (64, 16), "gpu": (384, 36)}


def test_arrays_and_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grey = np.zeros((8, 28, 28), np.uint8)
    np.savez("mnist.npz", x_train=grey, y_train=np.arange(8) % 4)
    api.init("digits", data="mnist.npz")
    spec = api.check("digits.yaml", data=True)
    assert (spec.data.shape, spec.data.classes) == ((1, 28, 28), 4) and not spec.data.settings()["horizontal_flip"]
    assert "horizontal_flip: false        # off: `mnist.npz` names mnist" in Path("digits.yaml").read_text()
    assert spec.networks["main"].patch == 4, "49 patches"
    np.savez("latents.npz", x=np.random.default_rng(0).standard_normal((8, 4, 16, 16)).astype(np.float32))
    api.init("latents", data="latents.npz")
    assert api.check("latents.yaml", data=True).data.shape == (4, 16, 16)


@pytest.mark.parametrize("shape", [(24, 32), (30, 50, 3), (4, 16, 24)])
def test_arrays_that_are_not_square(shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net takes them; a transformer over square patches does not, and a first stage's latents are others."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = (
        rng.integers(0, 256, (8, *shape), np.uint8) if shape[0] > 4 else rng.standard_normal((8, *shape), np.float32)
    )
    np.savez("wide.npz", x=values, y=np.arange(8) % 2)
    api.init("wide", data="wide.npz")
    data, text = api.check("wide.yaml", data=True).data, Path("wide.yaml").read_text()
    assert data.shape == {2: (1, 24, 32), 3: (3, 30, 50)}.get(len(shape) if shape[0] > 4 else 0, (4, 16, 24))
    assert "# no size of `dit` fits samples" in text and "takes square arrays" in text
    with pytest.raises(DiagnosticError, match="takes square arrays") as caught:
        api.init("other", "dit", data="wide.npz")
    assert caught.value.diagnostics[0].code == "E0424" and "`--from edm` fits" in str(caught.value.diagnostics[0].help)


def test_vectors_fit_no_network_over_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("scores.npz", x=np.random.default_rng(0).standard_normal((8, 12)))
    with pytest.raises(DiagnosticError, match=r"no size of `dit` fits samples of shape \[12\]"):
        api.init("scores", data="scores.npz")


def test_a_data_set_of_the_hub_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    KINDS["huggingface"](tmp_path / "set")
    whole = datasets.load_from_disk("set")["train"]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: whole)
    api.init("my", data="org/pictures")
    spec = api.check("my.yaml", data=True)
    assert (spec.data.kind, spec.data.classes) == ("huggingface", 3) and Path("data/pictures/state.json").is_file()


def test_a_system_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x=np.zeros((8, 12), np.float32))
    with pytest.raises(DiagnosticError) as caught:
        api.init("my", "edm", data="a.npz")
    assert caught.value.diagnostics[0].code == "E0424" and not Path("my.yaml").exists()


def of_names(*names: str, path: str = "images", modes: str = "RGB", glyphs: float = 0.0) -> Survey:
    found = Survey(path, {"kind": "image_folder", "path": path}, 8, names=list(names), glyphs=glyphs)
    found.modes[modes] = 8
    return found


@pytest.mark.parametrize(
    "found",
    [
        of_names("0", "1", "2"),
        of_names("a", "b", "C"),
        of_names("zero", "one", "two"),
        of_names("letter_a", "letter_b"),
        of_names("digit-7", "digit-8"),
        of_names("turn_left", "turn_right"),
        of_names("turnLeft", "ahead"),
        of_names("alpha", "beta", path="data/omniglot"),
        of_names(path="ylecun/mnist"),
        of_names(path="emnist.npz"),
        of_names(path="captcha/train"),
        of_names("x1", "x2", modes="grey", glyphs=0.9),
    ],
)
def test_flips_are_off_where_they_would_change_the_class(found: Survey) -> None:
    assert why_not_mirrored(found) is not None


@pytest.mark.parametrize(
    "found",
    [
        of_names("cat", "dog"),
        of_names("n01440764", "n01443537"),
        of_names("shirt", "bag", path="zalando/fashion-mnist", modes="grey", glyphs=0.6),
        of_names("one-eyed cat", "dog"),
        of_names("bright", "leftover"),
        of_names("portrait", "x ray", modes="grey", glyphs=0.3),
        of_names(path="context/images"),
    ],
)
def test_flips_are_on_for_other_images(found: Survey) -> None:
    assert why_not_mirrored(found) is None


def spec_of(**data: Any) -> str:
    own = {"kind": "image_folder", "path": "pets", "classes": 2, "shape": [3, 32, 32], **data}
    text = "latentc: 1\nextends: digits_dit\nname: my\nbackbone: {patch: 4}\ndata:\n"
    Path("my.yaml").write_text(text + "".join(f"  {key}: {json.dumps(value)}\n" for key, value in own.items()))
    return "my.yaml"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"shape": [3, 64, 64]}, "8 of 8 images are smaller than 64 × 64"),
        ({"shape": [1, 32, 32]}, "8 images have colours, but the model is of grey images"),
        ({"class_names": ["cats", "dog"]}, "class 0 is `cats`; did you mean `cat`, as in the data?"),
        ({"class_names": ["dog", "cat"]}, "class 0 is `dog`, but in the data `cat`; `dog` is class 1 there"),
        ({}, ""),
    ],
)
def test_a_spec_is_compared_with_its_data(data: dict[str, Any], said: str, folder: Path, capsys: Any) -> None:
    assert run(["check", spec_of(**data)]) == 0
    assert run(["check", "my.yaml", "--data"]) == 0
    err = capsys.readouterr().err
    assert (said in err) if said else not err


def test_damaged_samples_are_an_error_unless_skipped(folder: Path, capsys: Any) -> None:
    for name in ("a.png", "b.png"):
        (folder / "pets/dog" / name).write_bytes(b"")
    assert run(["check", spec_of()]) == 0
    assert run(["check", "my.yaml", "--data"]) == 1
    err = capsys.readouterr().err
    assert "error[E0419]: 2 of 10 samples are damaged: " in err and "pets/dog/a.png: " in err and "damaged: skip" in err
    assert run(["check", "my.yaml", "--data", "--set", "data.damaged=skip", "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.endswith("they are skipped")


def test_near_names_are_suggested(folder: Path, capsys: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.savez("a.npz", imgs=PIXELS[:, :32, :32], y=np.arange(8) % 2)
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), "a.parquet")
    for data, near in (
        (
            {"kind": "npz", "path": "a.npz", "keys": {"x": "images"}},
            "no array `images` for the field `x`, perhaps `imgs`; arrays: imgs, y",
        ),
        (
            {"kind": "parquet", "path": "a.parquet", "keys": {"x": "pictures"}},
            "no column `pictures`, perhaps `picture`",
        ),
        ({"kind": "webdataset"}, "pets looks like data of kind `image_folder`: set `kind: image_folder`"),
        ({"path": "a.npz"}, "a.npz looks like data of kind `npz`"),
    ):
        assert run(["check", spec_of(**data)]) == 1
        assert near in capsys.readouterr().err
    assert run(["check", spec_of(path="pest"), "--data"]) == 1
    assert f"did you mean `{folder / 'pets'}`?" in capsys.readouterr().err


def test_init_reads_a_part_of_large_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FITTED", 4)
    api.init("my", data="pets")
    assert load_spec("my.yaml").data.classes == 2
