"""Every verb, as it is meant to be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from forked import run_training
from ir_parse import module_from_text
from parity_data import SIZES, load
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_model import write_random_weights

from latentc import __version__
from latentc.api import training
from latentc.files import shipped
from latentc.files.shipped import codes, shipped_specs
from latentc.ir.text import text_from_module
from latentc.spec import load_spec

Run = Callable[..., Any]


def test_help_and_version(latentc: Run) -> None:
    help_text = latentc("--help")
    assert help_text.status == 0
    verbs = "specs check show schema init explain emit train forward weights compile "
    verbs += "sample search sweep verify bench doctor deploy"
    assert all(f"\n  {verb} " in help_text.out for verb in verbs.split())
    assert latentc().out == help_text.out
    assert latentc("--version").out == f"latentc {__version__}\n"
    assert all(latentc(verb, "--help").status == 0 for verb in verbs.split())


def test_starting_is_fast() -> None:
    """Nothing heavy is imported for the help, no engine for checking a spec."""
    code = "import sys; from latentc.cli import run; run({!r}); print(*sorted(sys.modules))"

    def imported(*args: str) -> set[str]:
        done = subprocess.run([sys.executable, "-c", code.format(list(args))], capture_output=True, text=True)
        return set(done.stdout.splitlines()[-1].split())

    assert not {"numpy", "pydantic", "yaml", "onnx", "torch", "rich", "tqdm"} & imported("--help")
    assert not {"onnx", "torch", "onnxruntime", "polygraphy"} & imported("check", "dit")


COMPLETED = {
    "verbs": ("latentc tra", {"train"}),
    "shipped specs and files": ("latentc check digits_d", {"digits_dit", "digits_dod", "digits_distilled"}),
    "files": ("latentc train mi", {"mine.yaml"}),
    "paths, which shells know": ("latentc check ./mi", set()),
    "variants of a shipped spec": ("latentc compile dit -o out -v B/", {"B/2", "B/4", "B/8"}),
    "variants of a file": ("latentc check mine.yaml --variant s", {"small"}),
    "variants of no spec": ("latentc check nothing --variant s", set()),
    "codes": ("latentc explain E021", {f"E021{i}" for i in range(7)}),
}


@pytest.mark.parametrize(("line", "some"), COMPLETED.values(), ids=COMPLETED)
def test_shells_complete(
    latentc: Run,
    line: str,
    some: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.yaml").write_text("latentc: 1\nvariants: {small: {}, large: {}}\n")
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_LATENTC_COMPLETE": "complete_bash"}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="0"):
        latentc()
    found, word = set(capsys.readouterr().out.split()), line.split()[-1]
    assert found >= some and all(text.startswith(word) for text in found) and bool(found) == bool(some)


def test_the_completion_of_a_shell_is_shown() -> None:
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    line = [sys.executable, "-m", "latentc", "--show-completion", "bash"]
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert "complete -o default -F _latentc_completion latentc" in done.stdout and done.returncode == 0


def test_specs(latentc: Run) -> None:
    assert "XL/2" in latentc("specs").out
    found = json.loads(latentc("specs", "--json").out)
    assert {name for family in found.values() for name in family} == set(shipped.shipped_specs())
    assert "dit" in found["diffusion"]
    assert "S/2" in found["diffusion"]["dit"]


def test_check(latentc: Run, tiny: Any) -> None:
    assert latentc("check", tiny.spec).out == "tiny: no errors found\n"
    assert json.loads(latentc("check", "dit", "-v", "S/2", "--json").out) == {
        "ok": True,
        "name": "dit",
        "variant": "S/2",
        "notes": [],
        "warnings": [],
    }
    bad = latentc("check", tiny.spec, "--set", "backbone.width=15", "--json")
    assert bad.status == 1
    problem = json.loads(bad.out)["diagnostics"][0]
    assert problem["code"] == "E0305"
    assert problem["span"]["file"] == "--set #1"


def test_resolved_is_a_spec(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    whole = latentc("check", tiny.spec, "--resolved", "--set", "sampler.steps=7").out
    (tmp_path / "whole.yaml").write_text(whole)
    assert "eps: 1e-06" in whole
    assert latentc("check", "whole.yaml", "--resolved").out == whole


def test_schema(latentc: Run) -> None:
    assert json.loads(latentc("schema").out)["title"] == "latentc spec"


@pytest.mark.parametrize("code", codes())
def test_explain(latentc: Run, code: str) -> None:
    page = latentc("explain", code.lower())
    assert page.status == 0
    assert page.out.startswith(f"# {code}")


def test_init_asks_nothing(latentc: Run) -> None:
    assert latentc("init").status == 0
    assert latentc("check", "my-model.yaml").out == "my-model: no errors found\n"
    spec = load_spec("my-model.yaml")
    assert spec.data.kind == "digits" and spec.name == "my-model"
    assert latentc("init", "mine.yaml").status == 0
    assert load_spec("mine.yaml").name == "mine"


@pytest.mark.parametrize("system", [p.stem for p in shipped_specs().values() if p.parent.name != "digits"])
def test_init_from_any_system(latentc: Run, system: str) -> None:
    """Its small form for digits where there is one, the system itself with its data's path elsewhere."""
    assert latentc("init", "one", "--from", system).status == 0
    small = f"digits_{system}" in shipped_specs()
    assert ("extends: " + system in Path("one.yaml").read_text()) != small
    kind = load_spec("one.yaml").data.kind
    assert kind == load_spec(f"digits_{system}").data.kind if small else kind != "digits"


def test_init_from_an_unknown_system(latentc: Run) -> None:
    done = latentc("init", "one", "--from", "edn")
    assert done.status == 1 and "did you mean `edm`?" in done.err and not Path("one.yaml").exists()


def test_show(latentc: Run, tiny: Any) -> None:
    # DiT's paper: 675 M weights, the fixed positions among them, and 118.64 GFLOPs of multiply-adds.
    found = json.loads(latentc("show", "dit", "-v", "XL/2", "--json").out)
    network = found["main.forward"]
    assert network["parameters"] + network["buffers"] == 675_129_632
    assert network["flops"] == pytest.approx(2 * 118.64e9, rel=0.01)
    assert set(found) == {"main.forward", "sample.250"}
    done = latentc("show", tiny.spec, "--svg", "net.svg")
    assert "weights" in done.out
    assert Path("net.svg").read_text().startswith("<svg")


def test_show_the_ir(latentc: Run, tiny: Any) -> None:
    text = latentc("show", tiny.spec, "--ir").out
    assert text.startswith("latentc-ir 1\n")
    assert "guided" in text
    assert "= guided" not in latentc("show", tiny.spec, "--after", "expand_guidance").out
    whole = latentc("show", tiny.spec, "--full").out
    assert text_from_module(module_from_text(whole)) == whole


def test_show_why_a_rule_did_not_fire(latentc: Run, tiny: Any) -> None:
    text = latentc("show", tiny.spec, "--why", "norm_affine").out
    assert text.startswith("norm_affine: applied 0 times\nnearest miss in ")
    assert "not one value per channel" in text
    assert "attention: applied 0 times" in latentc("show", tiny.spec, "--why", "all").out


def test_emit_and_train(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    assert latentc("emit", tiny.spec, "-o", "project").status == 0
    assert {"model.py", "train.py", "config.yaml", "README.md"} <= {p.name for p in Path("project").iterdir()}
    # The spec again: the project there is the one it gives, so it is trained.
    with patch.object(training, "run_training", run_training):
        done = latentc("train", tiny.spec, "-o", "project", "--steps", "2", "--checkpoint-every", "1")
    assert done.status == 0, done.err
    weights = tmp_path / "project" / "runs" / "train" / "weights.safetensors"
    assert latentc("compile", tiny.spec, "--weights", weights, "-o", "bundle").status == 0
    other = latentc("train", tiny.spec, "--set", "backbone.width=32", "-o", "project")
    assert other.status == 1
    assert "error[E0709]" in other.err
    failed = latentc("train", "project", "--no-such-setting", "1")
    assert failed.status == 1
    assert "error[E0705]" in failed.err


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx"])
def test_forward(latentc: Run, tiny: Any, backend: str) -> None:
    line = ["forward", tiny.spec, "--weights", tiny.weights, "--inputs", tiny.inputs]
    assert latentc(*line, "-o", "new/out.npz", "--backend", backend).status == 0
    assert latentc(*line, "-o", "oracle.npz").status == 0
    with np.load("new/out.npz") as file, np.load("oracle.npz") as oracle:
        assert file.files == ["out"]
        np.testing.assert_allclose(file["out"], oracle["out"], rtol=0, atol=1e-5)


def test_weights_both_ways(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    rules = "weights: {theirs: {main: [{from: 'net.*', to: '*'}]}}\n"
    (tmp_path / "mapped.yaml").write_text(tiny.spec.read_text() + rules)
    assert latentc("weights", "mapped.yaml", "-w", tiny.weights, "-o", "theirs.st", "--to-names", "theirs").status == 0
    assert latentc("weights", "mapped.yaml", "-w", "theirs.st", "--names", "theirs", "-o", "back.st").status == 0
    ours, theirs, back = load_file(tiny.weights), load_file("theirs.st"), load_file("back.st")
    assert set(theirs) == {f"net.{name}" for name in ours}
    assert all(np.array_equal(ours[name], back[name]) for name in ours)


def test_official_weights_come_back(latentc: Run, tmp_path: Path) -> None:
    """In and out again by the same name map is the file it was, fixed positions included."""
    numbers = load("dit")
    save_file(numbers.weights, tmp_path / "official.safetensors")
    sizes = [word for text in SIZES["dit"] for word in ("--set", text)]
    line = ["weights", "dit", *sizes, "-w", "official.safetensors", "--names", "official", "-o"]
    assert latentc(*line, "ours.safetensors").status == 0
    assert latentc(*line, "back.safetensors", "--to-names", "official").status == 0
    back = load_file("back.safetensors")
    assert set(back) == set(numbers.weights)
    assert all(np.allclose(back[name], array, atol=1e-6) for name, array in numbers.weights.items())
    assert "pos_embed" not in load_file("ours.safetensors")


def test_one_of_several_networks_is_converted(latentc: Run, tmp_path: Path) -> None:
    """What was taken of a file is printed, and where each network went."""
    numbers = load("biggan.D")
    torch.save({"model": {n: torch.from_numpy(np.asarray(a)) for n, a in numbers.weights.items()}}, tmp_path / "D.ckpt")
    sizes = [word for text in SIZES["biggan_train"] for word in ("--set", text)]
    line = ["weights", "biggan_train", *sizes, "-w", "D.ckpt", "--network", "discriminator", "-o", "discriminator=d.st"]
    done = latentc(*line, "--names", "official")
    assert done.status == 0, done.err
    taken, written = done.out.splitlines()
    assert taken == "discriminator: state dict `model` of D.ckpt"
    assert written == f"d.st: {len(load_file('d.st'))} tensors"
    assert "--names official" in latentc(*line).err


def test_averaged_weights(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    """--key picks a state dict of a checkpoint; without it, one that is not clear is refused."""
    weights = {name: torch.from_numpy(array) for name, array in load_file(tiny.weights).items()}
    torch.save({"model": weights, "ema": {n: 2 * w for n, w in weights.items()}, "step": 7}, tmp_path / "last.pt")
    assert latentc("weights", tiny.spec, "-w", "last.pt", "--key", "ema", "-o", "ema.safetensors").status == 0
    averaged = load_file("ema.safetensors")
    assert all(np.array_equal(averaged[name], 2 * weight.numpy()) for name, weight in weights.items())
    wrong = latentc("weights", tiny.spec, "-w", "last.pt", "--key", "emma", "-o", "x.safetensors")
    assert wrong.status == 1
    assert "error[E0409]" in wrong.err


def test_five_channels_are_no_picture(latentc: Run, tiny: Any) -> None:
    text = tiny.spec.read_text().replace("{kind: digits}", "{kind: npz, classes: 10, shape: [5, 8, 8]}")
    Path("five.yaml").write_text(text)
    write_random_weights(Path("five.yaml"), Path("five.safetensors"), 0.1)
    assert latentc("compile", "five.yaml", "-w", "five.safetensors", "-o", "five.latentc").status == 0
    refused = latentc("sample", "five.latentc", "--class", "0", "-o", "five.png")
    assert refused.status == 1 and not Path("five.png").exists()
    assert "error[E0612]: array samples are written as .npz or a folder, not .png" in refused.err
    assert latentc("sample", "five.latentc", "--class", "0-2", "-o", "five.npz").status == 0
    assert np.load("five.npz")["samples"].shape == (3, 5, 8, 8)
    assert latentc("sample", "five.latentc", "--class", "0-2", "-o", "five").status == 0
    assert sorted(path.name for path in Path("five").iterdir()) == ["00000.npz", "00001.npz", "00002.npz"]


def test_compile_and_sample(latentc: Run, tiny: Any) -> None:
    line = ["compile", tiny.spec, "-w", tiny.weights, "-o", "bundle", "--steps", "4,2", "--form", "host", "--json"]
    made = json.loads(latentc(*line).out)
    assert [(s["steps"], s["form"]) for s in made["programs"]] == [(4, "host"), (2, "host")]
    done = latentc("sample", "bundle", "--class", "0-2,7", "--per-class", "5", "-o", "grid.png", "--raw", "raw.npz")
    assert done.status == 0, done.err
    assert Image.open("grid.png").size == (5 * 8 + 4 * 2, 4 * 8 + 3 * 2)
    with np.load("raw.npz") as file:
        raw = file["samples"]
    assert raw.shape == (20, 1, 8, 8)
    assert latentc("sample", "bundle", "--class", "7", "--seed", "15", "--raw", "one.npz").status == 0
    with np.load("one.npz") as file:
        # A sample depends on its seed and class alone, whatever else is in the batch.
        np.testing.assert_allclose(file["samples"][0], raw[15], rtol=0, atol=1e-5)
    np.savez("noise.npz", x=np.zeros((1, 1, 8, 8), np.float32))
    line = ["sample", "bundle", "--class", "7", "--steps", "2", "--noise", "noise.npz", "--raw", "zero.npz"]
    assert latentc(*line).status == 0


def test_calibrate_and_compile_quantised(latentc: Run, tiny: Any) -> None:
    sets = [
        "--set",
        "optimize.quantize={scheme: int8, calibration: {samples: 2, steps: 2}, budget: {psnr: 1}, min_speedup: 0}",
    ]
    line = [tiny.spec, "-w", tiny.weights, *sets]
    done = latentc("calibrate", *line, "-o", "calibration.npz")
    assert done.status == 0, done.err
    assert done.out.startswith("calibration.npz: ") and "2 samples from seed 0" in done.out
    made = json.loads(latentc("compile", *line, "--calibration", "calibration.npz", "-o", "bundle", "--json").out)
    assert made["quantization"]["scheme"] == "int8" and made["quantization"]["psnr"] > 1
    assert made["warnings"] == []
    text = latentc("compile", *line, "--calibration", "calibration.npz", "-o", "again").out
    assert "again: int8, " in text and "PSNR" in text and "as fast at batch" in text


def test_a_quantised_engine_that_is_not_worth_it(latentc: Run, tiny: Any) -> None:
    sets = [
        "--set",
        "optimize.quantize={scheme: int8, calibration: {samples: 2, steps: 2}, budget: {psnr: 1}, min_speedup: 1000}",
    ]
    line = ["compile", tiny.spec, "-w", tiny.weights, *sets, "-o", "bundle"]
    refused = latentc(*line)
    assert refused.status == 1
    assert "error[E0804]: the int8 engine is not fast enough" in refused.err and "(at least 1000 ×)" in refused.err
    assert not Path("bundle").exists()
    kept = latentc(*line, "--force")
    assert kept.status == 0 and "warning: the int8 engine is not fast enough" in kept.err
    assert json.loads(Path("bundle/manifest.json").read_text())["quantization"]["forced"] is True
    assert latentc("sample", "bundle", "--class", "3", "-o", "three.png").status == 0


def test_by_reference(latentc: Run, tiny: Any) -> None:
    assert latentc("compile", tiny.spec, "-w", tiny.weights, "-o", "light", "--by-reference").status == 0
    assert latentc("sample", "light", "--class", "3", "-o", "three.png").status == 0
    assert not any(tiny.weights.name in path.name for path in Path("light").rglob("*"))


def test_verify_and_bench(latentc: Run, tiny: Any) -> None:
    done = latentc("verify", tiny.bundle, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["ok"] is True
    timed = latentc("bench", tiny.bundle, "--batch", "1", "--seconds", "0", "--json")
    assert [case["batch"] for case in json.loads(timed.out)["cases"]] == [1]


def test_verify_training(latentc: Run, tiny: Any) -> None:
    """Of a spec, with random weights or given ones, and of a bundle's spec."""
    for line in ((tiny.spec,), (tiny.spec, "-w", tiny.weights), (tiny.bundle,)):
        done = latentc("verify", "--training", *line, "--json")
        assert done.status == 0, done.err
        found = json.loads(done.out)
        assert found["ok"] and {"loss", "gradient of loss by main", "forward"} <= {
            c["what"] for c in found["comparisons"]
        }
    refused = latentc("verify", tiny.bundle, "--set", "sampler.steps=2")
    assert refused.status == 1 and "--training" in refused.err
    assert "compared" in latentc("verify", "--training", tiny.spec, "--budget", "0").out


def test_compile_without_the_comparison(latentc: Run, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.verify.compiled.check_computes", lambda *given: pytest.fail("it was compared"))
    line = ("compile", tiny.spec, "-w", tiny.weights, "-o", "unchecked")
    assert latentc(*line, "--no-check").status == 0
    assert latentc(*line, "--no-run").status == 0


def test_tune(latentc: Run, tiny: Any) -> None:
    line = ("tune", tiny.spec, "-w", tiny.weights, "--evaluations", "2", "--samples", "16", "--budget", "evaluations=2")
    done = latentc(*line, "-o", "tuned")
    assert done.status == 0, done.err
    assert "chosen for evaluations=2" in done.out and "tuned: tuned.yaml candidates.csv" in done.out
    assert latentc("compile", "tuned/tuned.yaml", "-w", tiny.weights, "-o", "few").status == 0
    found = json.loads(latentc(*line, "-o", "tuned", "--json").out)
    assert [row["evaluations"] for row in found["candidates"] if row["chosen"]] == [2]


def test_deploy(latentc: Run, tiny: Any) -> None:
    text = latentc("deploy", "triton", tiny.bundle, "-o", "repo").out
    assert text.startswith("repo: model tiny, ensemble (") and "tritonserver --model-repository /" in text
    found = json.loads(latentc("deploy", "triton", tiny.bundle, "-o", "repo", "--kind", "sampler", "--json").out)
    assert found["models"] == ["tiny"] and found["why"] == "asked for"


def test_doctor(latentc: Run) -> None:
    found = json.loads(latentc("doctor", "--json").out)
    assert found["ok"] is True
    assert {"python", "backend onnx"} <= {finding["name"] for finding in found["findings"]}


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    line = f"{sys.executable} -m latentc show dit --ir | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "latentc-ir 1\n"
    assert done.stderr == ""
