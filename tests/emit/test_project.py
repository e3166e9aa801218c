"""Emitted files: golden text, ruff, strings that are no code, folders that are not ours, the noise of a seed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_specs import CASES, lowered

from latentc.diagnostics import DiagnosticError
from latentc.emit import model_source, project_files, project_from_lowered
from latentc.emit.project import SHARED, config_of
from latentc.emit.text import identifier, literal
from latentc.files.templates import with_regions
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime import noise

EVIL = "x'''\"\"\"\\\n__import__('os').system('touch owned')#{{ 7 * 7 }}"


def files_of(case: str) -> dict[str, str]:
    spec, overrides = CASES[case]
    return project_files(lowered(case), load_spec(spec, overrides=overrides))


@pytest.mark.parametrize("case", ["digits-dit", "digits-llamagen"])
@pytest.mark.parametrize("name", ["model.py", "objective.py", "sampler.py"])
def test_golden(case: str, name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"emit/{case}/{name}.txt", files_of(case)[name])


def test_golden_schedule(golden: Callable[[str, str], None]) -> None:
    golden("emit/digits-dit/schedule.py.txt", files_of("digits-dit")["schedule.py"])


@pytest.mark.parametrize("case", CASES)
def test_ruff_has_nothing_to_say(case: str, tmp_path: Path) -> None:
    for name, text in files_of(case).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_strings_of_a_spec_are_no_code(tmp_path: Path) -> None:
    spec = load_spec("digits_dit", overrides=["sampler.steps=2"]).model_copy(update={"source": EVIL})
    files = project_files(lower(spec), spec)
    for name, text in files.items():
        if name.endswith(".py"):
            calls = [
                n.func.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
            ]
            assert "__import__" not in calls, name
    assert "49" not in files["README.md"]
    path = load_spec("dit", overrides=['data={kind: npz, classes: 5, shape: [4, 8, 8], path: "a: [b\\"\' #- c"}'])
    config = yaml.safe_load(project_files(lowered("dit"), path)["config.yaml"])
    assert config["data"]["path"] == "a: [b\"' #- c"


@pytest.mark.parametrize(
    "value", ["a'b\"c", "\\n'''", "\u2028", (1, "x", None, 1e-7), {"k": [True, -0.5]}, float("-inf")]
)
def test_literals_read_back(value: object) -> None:
    assert eval(literal(value).code, {"math": __import__("math")}) == value


def test_identifiers() -> None:
    for name in ("class", "a b", "1x", "", "x;import os", "torch"):
        assert identifier(name).isidentifier() and identifier(name) != "torch"


def test_folders_that_are_not_ours_stay(tmp_path: Path) -> None:
    spec, overrides = CASES["digits-dit"]
    arguments = lowered("digits-dit"), load_spec(spec, overrides=overrides)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("words")
    with pytest.raises(DiagnosticError) as refused:
        project_from_lowered(*arguments, tmp_path / "theirs")
    assert refused.value.diagnostics[0].code == "E0510"
    assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["thesis.tex"]
    files = project_from_lowered(*arguments, tmp_path / "ours")
    assert all(file.is_file() for file in files)
    (tmp_path / "ours" / "runs").mkdir()
    files[0].write_text("old")
    project_from_lowered(*arguments, tmp_path / "ours")
    assert files[0].read_text() != "old" and (tmp_path / "ours" / "runs").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours", "theirs"]  # nothing half written


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    spec, overrides = CASES["digits-dit"]
    with pytest.raises(DiagnosticError, match="E0511"):
        project_from_lowered(lowered("digits-dit"), load_spec(spec, overrides=overrides), tmp_path / "file" / "p")


def test_emitting_imports_no_torch() -> None:
    code = "import sys, latentc.emit, latentc.emit.project; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_setting_of_training_is_checked() -> None:
    config = ModuleType("config")
    config.__file__ = "config.py"
    exec(files_of("dit")["latentc_support/config.py"], config.__dict__)
    train = config_of(load_spec("dit"))["train"]
    config.check(train)
    flat = {k for key, v in train.items() for k in ([f"{key}.{k}" for k in v] if isinstance(v, dict) else [key])}
    optimizer = ("kind", *config.OPTIMIZERS["adamw"])
    settings = {name.removeprefix("train.") for name in config.SETTINGS if name.startswith("train.")}
    assert flat == settings | {f"optimizer.{name}" for name in optimizer}
    assert "data.path" in config.SETTINGS and "data.rate" not in config.SETTINGS
    for wrong in ({"ema": "none"}, {"clip": float("nan")}, {"keep": 0}, {"resume": 1}, {"seed": True}, {"stepz": 3}):
        with pytest.raises(SystemExit, match=f"train.{next(iter(wrong))}"):
            config.check({**train, **wrong})
    with pytest.raises(SystemExit, match="is missing"):
        config.check({k: v for k, v in train.items() if k != "log_every"})
    spec = load_spec("digits_edm2")
    exec(project_files(lower(spec), spec)["latentc_support/config.py"], config.__dict__)
    powers = config_of(spec)["train"]
    config.check(powers)
    for widths in ([], [0.05, 0.05], [0.05, 0.0500000001], [0.02 * i for i in range(1, 10)], [0.3]):
        with pytest.raises(SystemExit, match="sigma_rel"):
            config.check({**powers, "ema": {**powers["ema"], "sigma_rel": widths}})


def test_the_readme_counts_weights_as_training_does() -> None:
    readme = files_of("digits-dit")["README.md"]
    scope: dict[str, object] = {"__name__": "model"}
    exec(files_of("digits-dit")["model.py"], scope)
    weights = sum(p.numel() for p in scope["build"]().parameters())
    assert f"{weights:,} weights" in readme


def source_of(name: str) -> str:
    return Path(noise.__file__).with_name(f"{name}.py").read_text()


def test_noise_is_the_runtimes() -> None:
    """The definitions in a project are those of the runtime, word by word."""
    files, compared = files_of("digits-dit"), set()
    for name in SHARED:
        beside = str(files.get(f"latentc_support/{name}.py", ""))
        assert "latentc_runtime" not in beside
        text = with_regions(source_of(name), ["classes"]).replace("from latentc_runtime import", "from . import")
        own = {ast.unparse(node) for node in ast.parse(text).body}
        for node in ast.parse(beside).body:
            if isinstance(node, ast.FunctionDef):
                assert ast.unparse(node) in own, node.name
                compared.add(node.name)
    assert {"philox", "normals", "default_given", "classes_from_text"} <= compared


def test_a_project_defines_only_what_it_calls() -> None:
    """Every function and class of the support code occurs in the project's text beside its definition."""
    files = {path: str(text) for path, text in files_of("digits-dit").items() if path.endswith(".py")}
    text = "\n".join(files.values())
    emitted = {"model.py", "objective.py", "sampler.py", "schedule.py"}
    for path in {*files} - emitted:
        for node in ast.walk(ast.parse(files[path])):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("__"):
                assert len(re.findall(rf"\b{node.name}\b", text)) > 1, (path, node.name)


def test_equal_sizes_keep_their_names() -> None:
    """The classes are the same whichever of their sizes happen to be equal."""
    digits, classes = [], []
    for embedding in (16, 20):  # at 16, width and condition are both 32
        digits.append(model_source(lower(load_spec("digits_biggan", None, [f"networks.main.embedding={embedding}"]))))
    assert digits[0].split("def build(")[0] == digits[1].split("def build(")[0]
    assert "self.conv2 = SNConv2d(features, features, kernel_size=3, padding=1)" in digits[0]
    for width, embedding in ((64, 108), (64, 128), (32, 16)):  # at 64 and 108, 2 * width is the condition's size
        sizes = [f"networks.main.width={width}", f"networks.main.embedding={embedding}"]
        classes.append(model_source(lower(load_spec("biggan", None, sizes))).split("def build(")[0])
    assert len(set(classes)) == 1
    assert "channels=16 * width, features=16 * width, condition=embedding + latent_dim // 6" in classes[0]
    assert "channels=embedding" not in classes[0]


def test_a_loss_that_takes_means_repeats_no_arguments() -> None:
    text = files_of("digits-dit")["objective.py"]
    assert "def loss(*args: Any, **inputs: Tensor) -> Tensor:" in text
    assert "return loss_terms(*args, **inputs).mean()" in text


@pytest.mark.parametrize("name", ["clip_text", "digits_rdm", "digits_ar_grpo", "dp3", "digits_edm2", "umd", "ppap"])
def test_no_name_is_missing_or_unused(name: str, tmp_path: Path) -> None:
    """Of encoders without a sampler, projects with neighbours, rollouts, arrays or averages of several widths, samplers
    without conditions, and many networks.
    """
    spec = load_spec(name)
    for path, text in project_files(lower(spec, to_emit=True), spec).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(text.encode() if isinstance(text, str) else text)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "E501,F,I", "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    for file in tmp_path.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            inside = isinstance(node, ast.ImportFrom) and (node.level or str(node.module).startswith("latentc_support"))
            if isinstance(node, ast.ImportFrom) and node.module and (inside or node.module in TOPS):
                folder = tmp_path / "latentc_support" if inside else tmp_path
                there = (folder / f"{node.module.rpartition('.')[2]}.py").read_text()
                defined = {
                    word for line in there.splitlines() if line[:1] not in " #" for word in re.findall(r"\w+", line)
                }
                assert {alias.name for alias in node.names} <= defined, (file, node.module)


@pytest.mark.parametrize("name", ["digits_himar", "pixelflow"])
def test_values_without_names_get_words(name: str) -> None:
    spec = load_spec(name)
    files = project_files(lower(spec), spec)
    for file in ("model.py", "objective.py", "sampler.py"):
        assert not re.findall(r"^ +(?:[xh]_\d+|concat\w*|slice|broadcast_to) = .*", str(files[file]), re.MULTILINE)


def test_depth_costs_no_text() -> None:
    shallow, deep = (lower(load_spec("dit", "S/2", overrides=[f"backbone.depth={n}"])) for n in (4, 40))
    assert model_source(shallow).replace('"depth": 4', '"depth": 40') == model_source(deep)


def test_sizes_of_the_model_come_from_its_config() -> None:
    files = files_of("digits-dit")
    sizes = yaml.safe_load(files["config.yaml"])["model"]["main"]
    assert sizes["width"] == 64 and sizes["depth"] == 4
    scope: dict[str, Any] = {"__name__": "model"}
    exec(files["model.py"], scope)
    network = scope["NETWORKS"]["main"](**{**sizes, "width": 48, "depth": 2})
    assert len(network.blocks) == 2 and network.blocks[0].attn.qkv.weight.shape == (144, 48)
    assert scope["build"](**sizes).state_dict().keys() == scope["build"]().state_dict().keys()


def test_all_of_a_token_model_follows_the_dtype_of_its_weights() -> None:
    scope: dict[str, Any] = {"__name__": "model"}
    exec(files_of("digits-llamagen")["model.py"], scope)
    network = scope["build"]().bfloat16()
    y = torch.tensor([1, 2])
    logits, *caches = network.prefill(y)
    logits, *caches = network.decode(torch.tensor([3, 4]), torch.tensor(1), *caches)
    assert {t.dtype for t in (logits, *caches)} == {torch.bfloat16}


def test_fsdp_registers_every_method() -> None:
    scope: dict[str, Any] = {"__name__": "model"}
    exec(files_of("digits-llamagen")["model.py"], scope)
    text = (Path(__file__).resolve().parents[2] / "templates/project/support/parallel.py").read_text()
    start = text.index("def methods_of(")
    exec("from torch import nn\nfrom inspect import isfunction\n" + text[start : text.index("def shard(")], scope)
    network = scope["build"]()
    assert scope["methods_of"](network) == ["prefill", "decode"]
    assert scope["methods_of"](network.blocks[0]) == ["decode"]


def test_every_method_that_a_loss_may_call_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Callable[..., Any]] = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(call) or call)
    scope: dict[str, Any] = {"__name__": "model"}
    exec(files_of("digits-llamagen")["model.py"], scope)
    parallel: dict[str, Any] = {"__name__": "parallel"}
    exec((Path(__file__).resolve().parents[2] / "templates/project/support/parallel.py").read_text(), parallel)
    network = scope["build"]()
    parallel["wrap"](network, SimpleNamespace(parallel="none"), {"recompute": False, "compile": True})
    assert [call.__name__ for call in compiled] == ["_call_impl", "prefill", "decode"]


def test_the_readme_asks_for_what_the_default_program_needs() -> None:
    """Programs with early exits are given arrays of features, the sampler is not."""
    spec = load_spec("digits_deediff")
    readme = project_files(lower(spec), spec)["README.md"]
    assert "--class 0-9 -o samples.png" in readme and "--given x=" not in readme


TOPS = ("train", "sample", "model", "objective", "sampler", "schedule")


def modules_reached(files: Mapping[str, str | bytes]) -> set[str]:
    """Paths of the modules that the scripts of a project import, directly or not, also when they need them only."""
    waiting, reached = ["train.py", "sample.py", "latentc_support/data.py"], set[str]()
    while waiting:
        path = waiting.pop()
        if path in reached or path not in files:
            continue
        reached.add(path)
        for node in ast.walk(ast.parse(files[path])):
            if isinstance(node, ast.ImportFrom):
                names = [node.module] if node.module else [alias.name for alias in node.names]
                inside = node.level or str(node.module).startswith("latentc_support.")
                waiting += [f"{'latentc_support/' if inside else ''}{str(n).rpartition('.')[2]}.py" for n in names]
            elif isinstance(node, ast.Import):
                waiting += [f"{alias.name.replace('.', '/')}.py" for alias in node.names]
    return reached


@pytest.mark.parametrize("case", CASES)
def test_a_project_has_only_the_modules_that_it_needs(case: str) -> None:
    files = files_of(case)
    config = yaml.safe_load(files["config.yaml"])
    found = {path for path in files if path.endswith(".py")}
    assert {path.removesuffix(".py") for path in found if "/" not in path} <= set(TOPS)
    dynamic = {f"latentc_support/{config['data']['kind']}.py", "latentc_support/__init__.py"}
    followed = modules_reached(files) | (found & dynamic)
    for path in found & dynamic:
        followed |= modules_reached({**files, "train.py": files[path].replace("from .", "from latentc_support.")})
    assert found <= followed, found - followed


def test_a_class_conditional_project_reads_no_texts() -> None:
    files = files_of("dit")
    absent = ("texts", "condition_arrays", "rare_distributions", "captions", "webdataset", "views", "video")
    assert not {f"latentc_support/{name}.py" for name in absent} & set(files)
    lines = sum(str(text).count("\n") for path, text in files.items() if path.endswith(".py"))
    assert lines < 3_600


def test_pivots_are_drawn_in_one_loop() -> None:
    spec = load_spec("digits_himar", overrides=["sampler.pivots.steps=6"])
    text = str(project_files(lower(spec), spec)["sampler.py"])
    assert text.count("for before, after, weight in") == 1


@pytest.mark.parametrize("every", ["null", "4"])
def test_only_specs_that_ask_for_sample_metrics_get_their_code(every: str) -> None:
    spec = load_spec("digits_dit", overrides=[f"train.evaluate_every={every}"])
    files = project_files(lower(spec), spec)
    asked = every != "null"
    assert ("latentc_support/evaluate.py" in files) == asked
    for name in ("config.yaml", "train.py", "README.md", "latentc_support/config.py"):
        assert ("evaluate_every" in str(files[name])) == asked, name
