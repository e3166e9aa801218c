"""What no spec and no class of diffusers can express is refused or warned about by name; nothing is half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from tiny_pipelines import pipeline

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.interchange import export_diffusers
from latentc.interchange.diffusers import MODELS, SCHEDULERS
from latentc.spec import load_spec, spec_from_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound pipeline."""
    made = tmp_path_factory.mktemp("sound") / "dit"
    pipeline(made)
    return made


def changed(folder: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """The text of the file after a change to its data; the caller restores it."""
    data = json.loads((folder / file).read_text())
    change(data)
    return json.dumps(data)


SCHEDULER, TRANSFORMER = "scheduler/scheduler_config.json", "transformer/config.json"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "thresholding": (SCHEDULER, {"thresholding": True}, "DDIMScheduler.thresholding is True: dynamic thresholding"),
    "betas": (SCHEDULER, {"trained_betas": [0.1, 0.2]}, "trained_betas"),
    "zero-snr": (SCHEDULER, {"rescale_betas_zero_snr": True}, "zero terminal signal"),
    "schedule": (SCHEDULER, {"beta_schedule": "sigmoid"}, "only linear, scaled_linear, squaredcos_cap_v2"),
    "scheduler": (SCHEDULER, {"_class_name": "PNDMScheduler"}, "the scheduler PNDMScheduler has no equivalent"),
    "activation": (TRANSFORMER, {"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
    "number": (TRANSFORMER, {"num_layers": "two"}, "num_layers is 'two': it must be a positive integer"),
    "class": (TRANSFORMER, {"_class_name": "SanaTransformer2DModel"}, "SanaTransformer2DModel has no equivalent"),
    "pipeline": ("model_index.json", {"_class_name": "SanaPipeline"}, "the pipeline SanaPipeline has no equivalent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_without_an_equal(case: str, folder: Path, tmp_path: Path) -> None:
    file, change, expected = REFUSED[case]
    before = (folder / file).read_text()
    (folder / file).write_text(changed(folder, file, lambda data: data.update(change)))
    try:
        with pytest.raises(DiagnosticError) as error:
            api.import_checkpoint(folder, tmp_path / "out")
    finally:
        (folder / file).write_text(before)
    assert error.value.diagnostics[0].code == "E0416" and expected in str(error.value)
    assert not list(tmp_path.iterdir())


def test_more_blocks_than_any_file_has(folder: Path, tmp_path: Path) -> None:
    before = (folder / TRANSFORMER).read_text()
    (folder / TRANSFORMER).write_text(changed(folder, TRANSFORMER, lambda data: data.update(num_layers=10**9)))
    try:
        with pytest.raises(DiagnosticError, match="depth"):
            api.import_checkpoint(folder, tmp_path / "out")
    finally:
        (folder / TRANSFORMER).write_text(before)
    assert not list(tmp_path.iterdir())


def test_what_is_not_taken_over_is_named(folder: Path, tmp_path: Path) -> None:
    before = (folder / SCHEDULER).read_text()
    (folder / SCHEDULER).write_text(changed(folder, SCHEDULER, lambda data: data.update(skip_prk_steps=True)))
    try:
        found = api.import_checkpoint(folder, tmp_path / "out")
    finally:
        (folder / SCHEDULER).write_text(before)
    assert found.notes == ("DDIMScheduler.skip_prk_steps = True is not taken over",)


JUNK: tuple[Any, ...] = (
    None,
    "x",
    [],
    [1],
    ["a"],
    [["a"]],
    {},
    {"a": 1},
    -1,
    0,
    1.5,
    True,
    10**9,
    float("nan"),
    float("inf"),
)


@pytest.mark.parametrize("name", [*MODELS, *SCHEDULERS])
def test_configurations_of_any_content_are_refused_or_read(name: str) -> None:
    equivalent = {**MODELS, **SCHEDULERS}[name]
    for key in (*equivalent.DEFAULTS, "unknown"):
        for value in JUNK:
            config = equivalent.config_of({**equivalent.DEFAULTS, key: value})
            equivalent.changes(config)
            assert key in config.read or key in config.left()


def test_an_index_of_any_content(folder: Path, tmp_path: Path) -> None:
    before = (folder / "model_index.json").read_text()
    try:
        for value in JUNK:
            index = changed(folder, "model_index.json", lambda data, value=value: data.update(_class_name=value))
            (folder / "model_index.json").write_text(index)
            assert "E0416" in refusal(folder, tmp_path / "out")
            (folder / "model_index.json").write_text(before)
        for text in ("", "[]", "{", "null"):
            (folder / "model_index.json").write_text(text)
            assert "E0403" in refusal(folder, tmp_path / "out")
    finally:
        (folder / "model_index.json").write_text(before)
    assert not list(tmp_path.iterdir())


def refusal(folder: Path, out: Path) -> str:
    with pytest.raises(DiagnosticError) as error:
        api.import_checkpoint(folder, out)
    return str(error.value)


def test_the_class_under_which_dit_was_published(folder: Path, tmp_path: Path) -> None:
    """Its configuration has keys of Transformer2DModel, which DiT does not use."""
    before = (folder / TRANSFORMER).read_text()
    old = {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "use_linear_projection": False}
    try:
        (folder / TRANSFORMER).write_text(changed(folder, TRANSFORMER, lambda data: data.update(old)))
        assert api.import_checkpoint(folder, tmp_path / "out").notes == ()
        old["cross_attention_dim"] = 768  # type: ignore[assignment]
        (folder / TRANSFORMER).write_text(changed(folder, TRANSFORMER, lambda data: data.update(old)))
        assert "cross_attention_dim is 768: DiT has None" in refusal(folder, tmp_path / "other")
    finally:
        (folder / TRANSFORMER).write_text(before)


def test_class_names_there_and_back(folder: Path, tmp_path: Path) -> None:
    api.import_checkpoint(folder, tmp_path / "in")
    assert load_spec(tmp_path / "in/spec.yaml").data.class_names[7] == "thing 7, item 7"
    api.export_diffusers(tmp_path / "in/spec.yaml", tmp_path / "out")
    assert diffusers.DiTPipeline.from_pretrained(tmp_path / "out").get_label_ids(["item 999"]) == [999]
    api.import_checkpoint(tmp_path / "out", tmp_path / "again")
    api.export_diffusers(tmp_path / "again/spec.yaml", tmp_path / "last")
    first, last = (json.loads((path / "model_index.json").read_text()) for path in (folder, tmp_path / "last"))
    assert first["id2label"] == last["id2label"]
    alone = api.import_checkpoint(folder / "transformer", tmp_path / "alone")
    assert load_spec(alone.spec).data.class_names is None, "a transformer has no names, and its classes may be others"


def test_class_names_without_a_place(folder: Path, tmp_path: Path) -> None:
    api.import_checkpoint(folder, tmp_path / "in")
    spec = tmp_path / "in/spec.yaml"
    api.convert_weights(spec, None, tmp_path / "own.safetensors")
    made = api.export_diffusers(spec, tmp_path / "out", overrides=["data.first_stage=null"])
    assert made.pipeline is None
    assert "the names of the classes are left out: only a DiTPipeline has them" in made.notes


def test_networks_without_an_equal(tmp_path: Path) -> None:
    for system, reason in {
        "sit": "it computes output channels and then drops them",
        "digits_maskgit": "no DiTTransformer2DModel: its network is",
        "edm": "a UNet2DModel takes at most one condition, a class",
    }.items():
        spec = load_spec(system)
        for model in {*MODELS.values()}:
            assert not _expresses(model, spec), (system, model)
        with pytest.raises(DiagnosticError) as error:
            export_diffusers(spec, {"main": {}}, tmp_path / "out")
        assert error.value.diagnostics[0].code == "E0418" and reason in str(error.value)
    assert not list(tmp_path.iterdir())


def _expresses(model: Any, spec: Any) -> bool:
    try:
        model.config(spec)
    except Exception as error:
        assert type(error).__name__ == "Unequal", error
        return False
    return True


def test_defaults_are_those_of_diffusers() -> None:
    """A key that a configuration leaves out has the value that the installed class gives it."""
    for name, equivalent in {**MODELS, **SCHEDULERS}.items():
        if name == "Transformer2DModel":
            continue
        config = dict(getattr(diffusers, name)().config) if "Scheduler" in name else _signature(name)
        theirs = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}
        assert {k: v for k, v in equivalent.DEFAULTS.items() if k in theirs} == theirs, name


def _signature(name: str) -> dict[str, Any]:
    import inspect

    parameters = list(inspect.signature(getattr(diffusers, name).__init__).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def test_default_weights_of_a_spec(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found from any folder; --weights replaces them; unknown networks and maps are refused."""
    api.import_checkpoint(folder, tmp_path / "in")
    spec = tmp_path / "in/spec.yaml"
    monkeypatch.chdir("/")
    api.convert_weights(spec, None, tmp_path / "own.safetensors")
    x = np.zeros((1, 4, 4, 4), np.float32)
    inputs = {"x": x, "t": np.ones(1, np.float32), "y": np.zeros(1, np.int64)}
    expected = api.forward(spec, None, inputs)
    assert np.array_equal(api.forward(spec, tmp_path / "own.safetensors", inputs), expected)
    with pytest.raises(DiagnosticError, match="weights are given for none"):
        api.forward("dit", None, inputs, variant="S/8")
    text = "latentc: 1\nname: x\nextends: dit\ncheckpoints: {%s}\n"
    for given, code in {"other: {weights: a}": "E0415", "main: {weights: a, names: mine}": "E0703"}.items():
        with pytest.raises(DiagnosticError) as error:
            spec_from_text(text % given)
        assert error.value.diagnostics[0].code == code


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "in")
    assert run(["import", str(folder), "-o", out]) == 0
    said = capsys.readouterr().out
    assert "DiTPipeline of diffusers, with DDIMScheduler; wrote spec.yaml, first_stage.yaml" in said
    assert f"latentc compile {out}/spec.yaml -o {out}.latentc" in said
    assert f"latentc sample {out}.latentc --class 0-7 -o samples" in said
    assert run(["import", str(folder / "vae"), "-o", str(tmp_path / "vae")]) == 0
    assert "--given x=FILE" in capsys.readouterr().out
    assert run(["import", str(folder), "-o", out]) == 1
    assert "--force" in capsys.readouterr().err
    assert run(["export", "diffusers", f"{out}/spec.yaml", "-o", str(tmp_path / "back"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["pipeline"] == "DiTPipeline" and "model_index.json" in made["files"]
