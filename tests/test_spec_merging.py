"""What a spec, a variant and `--set` change of what they inherit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.spec import Spec, data_from_spec, load_spec, spec_from_text, variant_names
from latentc.spec.load import spec_from_resolved
from latentc.spec.resolve import Resolved, resolve_file, resolve_text
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import REPLACE, Document, Node

NAMES = list(shipped.shipped_specs())
NAMED = ("conditioning", "networks", "weights", "checkpoints", "train.optimizers", "data.fields")


def extending(base: str, text: str = "") -> str:
    return f"latentc: 1\nextends: {base}\n{text}\n"


def outcome(resolve: Callable[[], Resolved]) -> Any:
    """The document that comes of it, with its marks, or what is wrong."""
    try:
        document = resolve().document
    except DiagnosticError as error:
        return sorted((d.code, d.message) for d in error.diagnostics)
    return document.data, {path for path, node in document.nodes.items() if node.removes}


def nodes(document: Document) -> Iterator[tuple[tuple[str, ...], Node]]:
    """What `--set` can name, without items of lists and kinds."""
    for path, node in document.nodes.items():
        if path and path[0] != "latentc" and path[-1] != "kind" and all(isinstance(key, str) for key in path):
            yield tuple(map(str, path)), node


def changes(path: tuple[str, ...], node: Node, chance: random.Random) -> str:
    """A value to give at a path, as YAML; a mapping that is not to be merged, as `--set` gives it."""
    value = node.data()
    if chance.random() < 0.3:
        return "null"
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key == "kind" or chance.random() < 0.7}
        return f"{REPLACE} {{{', '.join(f'{key}: {flow(inner)}' for key, inner in kept.items())}}}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return flow(value + chance.choice([0, 1]))
    return flow(value)


def flow(value: Any) -> str:
    """A value in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return yaml_from_data(value).strip()


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_that_changes_nothing_is_its_base(name: str) -> None:
    base = load_spec(name)
    assert spec_from_text(extending(name)) == base
    assert base.notes == load_spec(name).notes
    for variant in variant_names(name)[-1:]:
        assert outcome(lambda: resolve_text(extending(name), "t.yaml", None, variant, ())) == outcome(  # noqa: B023
            lambda: resolve_file(name, variant)  # noqa: B023
        )


@pytest.mark.parametrize("name", NAMES)
def test_set_and_a_file_agree(name: str) -> None:
    """A value, a null, a list, or a mapping that replaces: one text, given either way."""
    chance = random.Random(name)
    found = list(nodes(resolve_file(name).document))
    for path, node in chance.sample(found, min(4, len(found))):
        given = changes(path, node, chance)
        text = given
        for key in reversed(path):
            text = f"{{{key}: {text}}}"
        by_file = outcome(lambda: resolve_text(extending(name, text[1:-1]), "t.yaml", None, None, ()))  # noqa: B023
        by_set = outcome(lambda: resolve_file(name, None, [f"{'.'.join(path)}={given}"]))  # noqa: B023
        assert by_file == by_set, (path, given)


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_entry_leaves_no_trace_or_a_diagnostic(name: str) -> None:
    chance, whole = random.Random(name), data_from_spec(load_spec(name))
    whole["networks"] = whole.get("networks") or {"main": whole["backbone"]}
    entries = [(*section.split("."), key) for section in NAMED for key in at(whole, section)]
    for path in chance.sample(entries, min(2, len(entries))):
        text = ": {".join([*path[:-1], f"{path[-1]}: null"]) + "}" * (len(path) - 1)
        try:
            spec = spec_from_text(extending(name, text), "own.yaml")
        except DiagnosticError as error:
            assert all(d.span is not None and d.code in shipped.codes() for d in error.diagnostics), (path, error)
        else:
            assert not list(traces(spec, path)), path


def at(data: Any, section: str) -> Any:
    for key in section.split("."):
        data = data[key]
    return data


def traces(spec: Spec, path: tuple[str, ...]) -> Iterator[str]:
    """Sections that still have an entry, or what belongs to it."""
    data = data_from_spec(spec)
    data["networks"] = data.get("networks") or {"main": data["backbone"]}
    if path[-1] in at(data, ".".join(path[:-1])):
        yield ".".join(path)
    if path[0] == "networks":
        maps = {f"weights.{name}": own for name, own in data["weights"].items()}
        others = {"checkpoints": data["checkpoints"], "optimizers": data["train"]["optimizers"], **maps}
        yield from (section for section, held in others.items() if path[-1] in held)


def loaded(tmp_path: Path, text: str, variant: str | None = None, *overrides: str) -> Spec:
    path = tmp_path / "own.yaml"
    path.write_text("latentc: 1\nname: own\n" + text)
    return load_spec(path, variant, overrides)


def test_a_tagged_mapping_replaces(tmp_path: Path) -> None:
    guided: Any = loaded(tmp_path, "extends: diffit\nsampler: {guidance: {scale: 1.5}}\n").sampler
    assert (guided.guidance.scale, guided.guidance.schedule) == (1.5, "cosine")
    own = "extends: diffit\nsampler:\n  guidance: !replace\n    scale: 1.5\n"
    replaced: Any = loaded(tmp_path, own).sampler
    assert (replaced.guidance.scale, replaced.guidance.schedule, replaced.guidance.channels) == (1.5, "constant", None)
    assert replaced.steps == guided.steps
    (tmp_path / "middle.yaml").write_text("latentc: 1\nname: middle\n" + own)
    later: Any = loaded(tmp_path, "extends: middle.yaml\nsampler: {guidance: {power: 2, schedule: linear}}\n").sampler
    assert (later.guidance.scale, later.guidance.schedule) == (1.5, "linear")


def test_a_tag_in_a_variant_and_before_one(tmp_path: Path) -> None:
    base = (
        "extends: diffit\nvariants: {a: {sampler: {guidance: !replace {scale: 2}}}, b: {train: {steps: 7, clip: 1}}}\n"
    )
    (tmp_path / "middle.yaml").write_text("latentc: 1\nname: middle\n" + base)
    own = "extends: middle.yaml\nvariants: {a: {sampler: {guidance: {channels: 1}}}, b: !replace {train: {clip: 2}}}\n"
    one: Any = loaded(tmp_path, own, "a")
    assert (one.sampler.guidance.scale, one.sampler.guidance.schedule, one.sampler.guidance.channels) == (
        2,
        "constant",
        1,
    )
    other = loaded(tmp_path, own, "b")
    assert other.train.clip == 2 and other.train.steps != 7 and other.networks == load_spec("diffit").networks


def test_set_of_a_mapping_replaces_and_of_a_key_merges() -> None:
    whole: Any = load_spec("diffit", None, ["sampler.guidance={scale: 1.5}"]).sampler
    assert whole.guidance.schedule == "constant"
    tagged: Any = load_spec("diffit", None, ["sampler.guidance=!replace {scale: 1.5}"]).sampler
    assert tagged == whole
    one: Any = load_spec("diffit", None, ["sampler.guidance.scale=1.5"]).sampler
    assert one.guidance.schedule == "cosine"


def test_null_removes_an_option_unless_it_is_a_value(tmp_path: Path) -> None:
    text = "extends: dit\ntrain: {batch_size: null, ema: null, schedule: null, clip: null}\n"
    (tmp_path / "dit.yaml").write_text(
        "latentc: 1\nname: base\nextends: dit\n"
        "train: {batch_size: 8, ema: 0.5, schedule: {kind: cosine, warmup: 5}, clip: 1.0}\n"
    )
    train = loaded(tmp_path, text.replace("extends: dit", "extends: dit.yaml")).train
    assert (train.batch_size, train.ema, train.schedule.kind, train.clip) == (256, None, "constant", None)
    with pytest.raises(DiagnosticError, match="E0203") as caught:  # without a base there is nothing to remove
        loaded(tmp_path, "data: {kind: digits}\nbackbone: {kind: convolution}\ntrain: {batch_size: null}\n")
    with pytest.raises(DiagnosticError) as caught:
        loaded(tmp_path, "extends: dit\nbackbone: {width: null}\n")
    (fault,) = caught.value.diagnostics
    assert fault.code == "E0203" and fault.span is not None and fault.span.line == 4


@pytest.mark.parametrize("networks", ["{discriminator: null}", "!replace {main: {kind: constant}}"])
def test_a_removed_network_takes_what_belongs_to_it(tmp_path: Path, networks: str) -> None:
    (tmp_path / "base.yaml").write_text(
        "latentc: 1\nname: base\nextends: biggan_train\n"
        "train: {optimizers: {discriminator: {kind: adam}}}\n"
        "weights: {alone: {discriminator: [{from: '*', to: '*'}]}}\n"
        "checkpoints: {discriminator: {weights: d.safetensors}}\n"
        "variants: {large: {networks: {discriminator: {width: 128}}, train: {steps: 9}}}\n"
    )
    text, file = f"latentc: 1\nextends: base.yaml\nnetworks: {networks}\nobjective: null\n", tmp_path / "t.yaml"
    for variant in (None, "large"):
        document = resolve_text(text, str(file), file, variant, ()).document
        assert "discriminator" not in repr(document.data), variant
    (tmp_path / "base.yaml").write_text("latentc: 1\nname: base\nextends: biggan_train\n")
    assert "discriminator" in repr(resolve_text("latentc: 1\nextends: base.yaml\n", str(file), file, None, ()).document)


def test_what_is_not_inherited_cannot_be_removed(tmp_path: Path) -> None:
    for text, overrides in (("conditioning: {clas: null}\n", ()), ("", ("conditioning.clas=null",))):
        with pytest.raises(DiagnosticError, match="no condition `clas` is inherited") as caught:
            loaded(tmp_path, "extends: dit\n" + text, None, *overrides)
        (fault,) = caught.value.diagnostics
        assert fault.code == "E0216" and "`class`" in fault.labels[0].text
    loaded(tmp_path, "extends: dit\nconditioning: {class: null}\nsampler: {guidance: null}\n")


@pytest.mark.parametrize(("respacing", "steps"), [('"10"', 10), ("ddim25", 25), ('"10,20"', 30)])
def test_respacing_determines_inherited_steps(tmp_path: Path, respacing: str, steps: int) -> None:
    text = f"extends: dit\nsampler: {{kind: ddpm, respacing: {respacing}}}\n"
    assert load_spec("dit").sampler.kind == "ddpm"  # type: ignore[union-attr]
    found: list[Any] = [loaded(tmp_path, text), load_spec("dit", None, [f"sampler.respacing={respacing}"])]
    assert [spec.sampler.steps for spec in found] == [steps, steps]
    times: Any = load_spec("dit", None, ["sampler.timesteps=[900, 500, 100]"])
    assert times.sampler.steps == 3
    betas: Any = load_spec("dit", None, ["sampler.spacing={kind: betas, values: [0.001, 0.1]}"])
    assert betas.sampler.steps == 2
    with pytest.raises(DiagnosticError, match="change `respacing`, which determines `steps`"):
        load_spec("ppap", None, ["sampler.steps=7"])


# ---- what is said


def test_guidance_that_keeps_inherited_keys_says_so(tmp_path: Path) -> None:
    (note,) = loaded(tmp_path, "extends: diffit\nsampler: {guidance: {scale: 1.5}}\n").notes
    assert "keeps `channels: 3`, `schedule: cosine`, `power: 4`" in note and "!replace {scale: 1.5}" in note
    (note,) = load_spec("diffit", None, ["sampler.guidance.scale=1.5"]).notes
    assert "`schedule: cosine`" in note
    assert load_spec("diffit").notes == load_spec("diffit", None, ["sampler.guidance={scale: 1.5}"]).notes == ()
    assert loaded(tmp_path, "extends: diffit\nsampler: {guidance: !replace {scale: 1.5}}\n").notes == ()
    whole = "extends: diffit\nsampler: {guidance: {scale: 1.5, schedule: linear, power: 1, channels: 3}}\n"
    assert loaded(tmp_path, whole).notes == ()


def test_an_inherited_variant_that_changes_an_own_value_says_so(tmp_path: Path) -> None:
    own = "extends: dit\nbackbone: {depth: 3}\ntrain: {steps: 10}\n"
    assert loaded(tmp_path, own).notes == ()
    (note,) = loaded(tmp_path, own, "S/2").notes
    assert note.startswith(f"`backbone.depth` of {tmp_path}/own.yaml:4 does not apply: variant `S/2` changes it in")
    declared = own + "variants: {S/2: {backbone: {depth: 3}}}\n"
    assert loaded(tmp_path, declared, "S/2").notes == ()


@pytest.mark.parametrize(
    ("base", "change", "override", "kept"),
    [
        ("dit", "classes: 7", "classes=7", False),
        ("dit", "path: other", "path=other", False),
        ("dit", "horizontal_flip: false", "horizontal_flip=false", True),
        ("ic_gan_class", "fields: {y: {classes: 7}}", "fields.y.classes=7", False),
        ("ic_gan_class", "fields: {y: {classes: 1000}}", "fields.y.classes=1000", True),
    ],
)
def test_class_names_follow_the_classes(tmp_path: Path, base: str, change: str, override: str, kept: bool) -> None:
    """Data of other classes do not have the inherited names, and a note says so."""
    by_file = loaded(tmp_path, f"extends: {base}\ndata: {{{change}}}\n")
    for spec in (by_file, load_spec(base, None, [f"data.{override}"])):
        assert (spec.data.class_names is not None) == kept
        assert len(spec.notes) == (not kept) and all("may have other classes" in note for note in spec.notes)


def test_notes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from latentc import api
    from latentc.cli import run

    changed = ["digits_dit", "--set", "sampler.guidance={scale: 2, interval: [0.1, 1]}"]
    changed += ["--set", "sampler.guidance.scale=2", "--set", "data.classes=10"]
    assert run(["check", *changed]) == 0
    assert capsys.readouterr() == ("digits-dit: no errors found\n", "")
    guided = ["diffit", "--set", "sampler.guidance.scale=2"]
    for command in (["check", *guided], ["check", *guided, "--resolved"], ["show", *guided]):
        assert run(command) == 0
        assert capsys.readouterr().err.startswith("note: `sampler.guidance` keeps `channels: 3`, `schedule: cosine`")
    assert api.notes("-") == api.notes(str(tmp_path)) == api.notes("dit") == ()


def test_resolved_documents_have_no_marks_of_merging() -> None:
    resolved = resolve_file("dit", None, ["train.batch_size=null", "sampler.guidance=!replace {scale: 2}"])
    assert spec_from_resolved(resolved).train.batch_size == 256


def test_what_went_with_something_else_may_be_removed_again() -> None:
    """Specs that name what a removed network leaves behind are as good as those that do not."""
    removed = ["networks.discriminator=null", "objective=null"]
    spec = load_spec("biggan_train", None, removed)
    assert load_spec("biggan_train", None, [*removed, "networks.discriminator=null"]) == spec
    maps = load_spec("stylegan2", None, removed)
    assert load_spec("stylegan2", None, [*removed, "weights.official.discriminator=null"]) == maps
