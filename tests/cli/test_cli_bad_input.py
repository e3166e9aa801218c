"""What people do wrong: a diagnostic with its code, no traceback, exit 1, and nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import command
from forked import python

from latentc import api
from latentc.files.shipped import codes

Run = Callable[..., Any]


def refused(result: Any, code: str) -> None:
    """The command ended as a user's mistake must."""
    assert result.status == 1, result
    assert result.err.startswith(f"error[{code}]: ") and code in codes(), result.err
    assert "Traceback" not in result.err
    assert result.out == ""


# The command, and the code it must end with; SPEC, WEIGHTS, INPUTS and BUNDLE are the tiny model's.
LINES = {
    "unknown verb": ("chek dit", "E0701"),
    "unknown option": ("check dit --varient S/2", "E0701"),
    "missing argument": ("check", "E0701"),
    "wrong type of option": ("sample BUNDLE --seed one -o a.png", "E0701"),
    "budget without a value": ("tune SPEC -w WEIGHTS -o tuned --budget error", "E0715"),
    "budget of nothing measured": ("tune SPEC -w WEIGHTS -o tuned --budget eror=1", "E0715"),
    "sweep of one value": ("sweep SPEC -o swept --set train.steps=5", "E0717"),
    "sweep of no setting": ("sweep SPEC -o swept --set train.stps=5,6", "E0201"),
    "metric that is no function": ("tune SPEC -w WEIGHTS -o tuned --metric INPUTS", "E0714"),
    "reward that is no function": ("search BUNDLE --reward INPUTS -o a.png", "E0714"),
    "nothing to write of a search": ("search BUNDLE --reward a.py:f", "E0701"),
    "tuning of tokens": ("tune digits_llamagen -w WEIGHTS -o tuned", "E0410"),
    "unknown backend": ("forward SPEC -w WEIGHTS -i INPUTS -o out.npz --backend tpu", "E0701"),
    "nothing to write": ("sample BUNDLE", "E0701"),
    "no spec": ("check dti", "E0401"),
    "folder as spec": ("check .", "E0402"),
    "weights as spec": ("check WEIGHTS", "E0101"),
    "unknown variant": ("check dit -v S/3", "E0212"),
    "unknown key in --set": ("check SPEC --set backbone.wdith=3", "E0201"),
    "a width that nothing holds": ("check SPEC --set backbone.width=1000000000000", "E0204"),
    "a depth that nothing holds": ("check SPEC --set backbone.depth=1000000000", "E0204"),
    "malformed --set": ("check SPEC --set backbone", "E0214"),
    "unknown pass": ("show SPEC --after fuze", "E0711"),
    "unknown rule": ("show SPEC --why atention", "E0712"),
    "unknown code": ("explain E020", "E0707"),
    "no weights file": ("compile SPEC -w none.safetensors -o out", "E0401"),
    "spec as weights": ("compile SPEC -w SPEC -o out", "E0403"),
    "folder as weights": ("compile SPEC -w . -o out", "E0403"),
    "weights of another model": ("compile dit -v S/2 -w WEIGHTS -o out", "E0410"),
    "wrong shapes": ("compile SPEC -w WEIGHTS -o out --set backbone.width=32", "E0410"),
    "unknown name map": ("compile dit -v S/2 -w WEIGHTS --names offical -o out", "E0703"),
    "too many steps": ("compile SPEC -w WEIGHTS -o out --steps 5,2000", "E0305"),
    "steps given twice": ("compile SPEC -w WEIGHTS -o out --steps 5,5", "E0701"),
    "key of a file without": ("compile SPEC -w WEIGHTS -o out --key ema", "E0409"),
    "a batch that nothing holds": ("bench BUNDLE --batch 10000000000", "E0701"),
    "bundle as spec": ("show BUNDLE", "E0402"),
    "steps that are no numbers": ("compile SPEC -w WEIGHTS -o out --steps few", "E0701"),
    "no sampler": ("compile SPEC -w WEIGHTS -o out --set sampler=null", "E0708"),
    "no objective": ("train SPEC -o out --set objective=null --set sampler=null", "E0708"),
    "no bundle": ("sample nothing --class 1 -o a.png", "E0601"),
    "spec as bundle": ("sample SPEC --class 1 -o a.png", "E0601"),
    "unknown class": ("sample BUNDLE --class 12 -o a.png", "E0704"),
    "classes upside down": ("sample BUNDLE --class 9-0 -o a.png", "E0704"),
    "classes that are none": ("sample BUNDLE --class cat -o a.png", "E0704"),
    "guidance that is no number": ("sample BUNDLE --guidance nan -o a.png", "E0608"),
    "guidance twice": ("sample BUNDLE --guidance 2 --setting guidance=2 -o a.png", "E0608"),
    "infinite guidance": ("sample BUNDLE --guidance inf -o a.png", "E0608"),
    "negative seed": ("sample BUNDLE --seed -1 -o a.png", "E0608"),
    "steps it lacks": ("sample BUNDLE --steps 4 -o a.png", "E0609"),
    "no noise file": ("sample BUNDLE --noise none.npz -o a.png", "E0401"),
    "noise of other names": ("sample BUNDLE --noise INPUTS -o a.png", "E0610"),
    "unknown device": ("sample BUNDLE --device tpu -o a.png", "E0606"),
    "picture onto a folder": ("sample BUNDLE --class 1 -o BUNDLE", "E0412"),
    "inputs that are no archive": ("forward SPEC -w WEIGHTS -i SPEC -o out.npz", "E0403"),
    "folder as inputs": ("forward SPEC -w WEIGHTS -i . -o out.npz", "E0402"),
    "no inputs": ("forward SPEC -w WEIGHTS -i none.npz -o out.npz", "E0401"),
    "bundle onto files": ("compile SPEC -w WEIGHTS -o FOLDER", "E0502"),
    "project onto files": ("emit SPEC -o FOLDER", "E0510"),
    "project onto a file": ("emit SPEC -o SPEC", "E0510"),
    "more than one request": ("sample BUNDLE --per-class 99999999999 --raw a.npz", "E0704"),
    "one file for two": ("sample BUNDLE -o a.png --raw a.png", "E0412"),
    "a device in place of a file": ("sample BUNDLE --class 1 -o DEVICE", "E0412"),
    "verify of nothing": ("verify nothing", "E0601"),
    "bench of nothing": ("bench nothing", "E0601"),
    "verify in no time that is": ("verify BUNDLE --budget nan", "E0701"),
    "bench in no time that is": ("bench BUNDLE --seconds nan", "E0701"),
    "tuning in no time that is": ("tune SPEC -w WEIGHTS -o tuned --seconds nan", "E0701"),
    "name that is none": ("init ../evil", "E0209"),
    "out where a file is": ("weights SPEC -w WEIGHTS -o SPEC/out.safetensors", "E0412"),
}


@pytest.mark.parametrize("case", LINES)
def test_refused(latentc: Run, tiny: Any, tmp_path: Path, case: str) -> None:
    line, code = LINES[case]
    folder = tmp_path / "FOLDER"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "DEVICE")
    names = {"SPEC": tiny.spec, "WEIGHTS": tiny.weights, "INPUTS": tiny.inputs, "BUNDLE": tiny.bundle}
    words = []
    for word in line.split():
        head, slash, tail = word.partition("/")
        words.append(f"{names[head]}{slash}{tail}" if head in names else word)
    before = sorted(tmp_path.rglob("*"))
    refused(latentc(*words), code)
    assert sorted(tmp_path.rglob("*")) == before
    assert (folder / "notes.txt").read_text() == "mine"


INPUTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a name is missing": lambda a: {"x": a["x"], "t": a["t"]},
    "a name is wrong": lambda a: {"images": a["x"], "t": a["t"], "y": a["y"]},
    "a shape is wrong": lambda a: {**a, "x": a["x"][:, :, :4]},
    "a rank is wrong": lambda a: {**a, "t": a["t"][:, None]},
    "batches differ": lambda a: {**a, "t": a["t"][:1]},
    "no sample": lambda a: {name: array[:0] for name, array in a.items()},
    "classes are fractions": lambda a: {**a, "y": a["y"] + 0.5},
    "a class is unknown": lambda a: {**a, "y": a["y"] + 1},
    "a class is negative": lambda a: {**a, "y": a["y"] - 20},
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_do_not_fit(latentc: Run, tiny: Any, case: str) -> None:
    with np.load(tiny.inputs) as file:
        given = {name: file[name] for name in file.files}
    np.savez("in.npz", **INPUTS[case](given))
    for backend in ("oracle", "torch", "onnx"):
        result = latentc("forward", tiny.spec, "-w", tiny.weights, "-i", "in.npz", "-o", "o.npz", "--backend", backend)
        refused(result, "E0702")
        assert "help: method `forward` of network `main` takes x: f32[B, channels=1, size=8, size=8]" in result.err
    assert not Path("o.npz").exists()


def test_truncated_weights(latentc: Run, tiny: Any) -> None:
    whole = tiny.weights.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        Path("cut.safetensors").write_bytes(whole[:size])
        refused(latentc("compile", tiny.spec, "-w", "cut.safetensors", "-o", "out"), "E0404")
        assert not Path("out").exists()


def test_weights_that_run_code(latentc: Run, tiny: Any) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path("pwned").touch, ())

    Path("bomb.pt").write_bytes(pickle.dumps({"x": Bomb()}))
    result = latentc("compile", tiny.spec, "-w", "bomb.pt", "-o", "out")
    assert result.status == 1
    assert not Path("pwned").exists()


def test_flipped_bytes(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    """One changed bit in any file of a bundle: refused."""
    for number, file in enumerate(sorted(path for path in tiny.bundle.rglob("*") if path.is_file())):
        copy = tmp_path / f"bundle{number}"
        shutil.copytree(tiny.bundle, copy)
        damaged = copy / file.relative_to(tiny.bundle)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        for line in (("sample", copy, "--class", "1", "-o", "a.png"), ("verify", copy)):
            result = latentc(*line)
            assert result.status == 1
            assert result.err.startswith(("error[E0602]", "error[E0604]")), (file, result.err)
        assert not Path("a.png").exists()


EVIL = '"""; __import__(\'pathlib\').Path(\'pwned\').touch(); x = """ \' {{ 7 * 7 }} {% raw %} \\'


def test_code_in_strings(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    """Text of a spec stays text in everything that is written from it."""
    import yaml

    refused(latentc("check", tiny.spec, "--set", "name=\"__import__('os').system('touch pwned')\""), "E0209")
    for name, value in (("source", "a\nb"), ("data", {"kind": "npz", "path": "a\nb"})):
        (tmp_path / "lines.yaml").write_text(yaml.safe_dump({**yaml.safe_load(tiny.spec.read_text()), name: value}))
        refused(latentc("check", "lines.yaml"), "E0209")
    data = yaml.safe_load(tiny.spec.read_text())
    data["source"] = EVIL
    data["data"] = {"kind": "npz", "path": EVIL, "classes": 10, "shape": [1, 8, 8], "keys": {"x": EVIL, "y": EVIL}}
    data["variants"] = {EVIL: {"train": {"steps": 1}}}
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(data))
    assert latentc("check", "evil.yaml", "--resolved", "-v", EVIL).status == 0
    assert latentc("emit", "evil.yaml", "-o", "project").status == 0
    scripts, support = (
        "model, objective, sampler, schedule, train, sample",
        "latentc_support.data, latentc_support.config",
    )
    done = python(tmp_path / "project", "-c", f"import {scripts}, {support}")
    assert done.returncode == 0, done.stderr
    assert latentc("compile", "evil.yaml", "-w", tiny.weights, "-o", "bundle").status == 0
    assert latentc("verify", "bundle").status == 0
    assert not list(tmp_path.rglob("pwned"))


def test_more_samples_than_fit_in_memory(latentc: Run, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentc.measure import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    refused(latentc("sample", tiny.bundle, "--class", "1", "--raw", "a.npz"), "E0710")
    assert not Path("a.npz").exists()


def test_tags_of_yaml_make_no_objects(latentc: Run, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("latentc: 1\nname: !!python/object/apply:os.system ['touch pwned']\n")
    refused(latentc("check", "evil.yaml"), "E0104")
    assert not Path("pwned").exists()


def test_paths_that_cannot_be(latentc: Run, tiny: Any) -> None:
    """A name that no file can have is refused like others."""
    name = "a" * 5000
    for line in (
        ("check", name),
        ("compile", tiny.spec, "-w", name, "-o", "out"),
        ("compile", tiny.spec, "-w", tiny.weights, "-o", name),
        ("sample", name, "-o", "a.png"),
        ("sample", tiny.bundle, "--class", "1", "-o", name),
        ("sample", tiny.bundle, "--class", "1", "--noise", name, "-o", "a.png"),
        ("forward", tiny.spec, "-w", tiny.weights, "-i", name, "-o", "out.npz"),
        ("emit", tiny.spec, "-o", name),
        ("weights", tiny.spec, "-w", tiny.weights, "-o", name),
        ("verify", name),
    ):
        result = latentc(*line)
        assert result.status == 1, (line, result)
        assert "Traceback" not in result.err
        assert result.err.startswith("error[E0")


# ---- a full disk, stopped commands


def limited() -> None:
    """No file of this process may grow beyond 4 kB: what a full disk looks like to it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


FULL = {
    "compile": "compile SPEC -w WEIGHTS -o out",
    "weights": "weights SPEC -w WEIGHTS -o out.safetensors",
    "emit": "emit SPEC -o out",
    "sample raw": "sample BUNDLE --class all --per-class 20 --raw out.npz",
    "sample grid": "sample BUNDLE --class all --per-class 90 -o out.png",
}


@pytest.mark.parametrize("case", FULL)
def test_full_disk(tiny: Any, tmp_path: Path, case: str) -> None:
    names = {"SPEC": tiny.spec, "WEIGHTS": tiny.weights, "BUNDLE": tiny.bundle}
    words = [str(names.get(word, word)) for word in FULL[case].split()]
    done = command(*words, cwd=tmp_path, preexec_fn=limited)
    assert done.returncode == 1, done
    codes = ("error[E0412]: ", "error[E0501]: ", "error[E0511]: ")
    assert any(code in done.stderr for code in codes), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def interruptible(line: list[str], **options: Any) -> Any:
    """A process that Ctrl-C reaches, also where the tests run in a shell's background, which has it ignored."""
    return subprocess.Popen(line, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


STOPPED = """
import sys, time
import latentc.export.bundle as bundle
def slow(*args):
    print("ready", flush=True)
    time.sleep(60)
bundle.HashCache.hashes = slow
from latentc.cli import main
main()
"""


@pytest.mark.parametrize(
    ("number", "older"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False), (signal.SIGKILL, True)],
)
def test_stopped_compile(latentc: Run, tiny: Any, tmp_path: Path, number: signal.Signals, older: bool) -> None:
    """Stopped with everything written but the manifest: no half bundle, and an older one is still there."""
    if older:
        shutil.copytree(tiny.bundle, tmp_path / "out")
    line = ["compile", str(tiny.spec), "-w", str(tiny.weights), "-o", "out", "--rebuild"]
    process = interruptible(
        [sys.executable, "-c", STOPPED, *line], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert "Traceback" not in err
    assert (tmp_path / "out").exists() == older
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == (["out"] if older else [])
    again = latentc(*line)
    assert again.status == 0, again.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what a killed process left is gone"
    assert latentc("sample", "out", "--class", "1", "-o", "a.png").status == 0


def test_a_compile_leaves_another_that_still_runs_alone(latentc: Run, tiny: Any, tmp_path: Path) -> None:
    line = ["compile", str(tiny.spec), "-w", str(tiny.weights), "-o", "out"]
    process = subprocess.Popen([sys.executable, "-c", STOPPED, *line], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (theirs,) = tmp_path.iterdir()
    assert latentc(*line).status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", theirs.name}
    process.kill()
    process.communicate(timeout=300)
    assert theirs.exists()
    assert latentc(*line, "--rebuild").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


STARVED = """
import resource, sys
import numpy
import latentc.export.bundle as bundle
def greedy(*args):
    pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + (64 << 20),) * 2)
    numpy.ones(1 << 30)
bundle.HashCache.hashes = greedy
from latentc.cli import main
main()
"""


def test_memory_that_runs_out_while_compiling(tiny: Any, tmp_path: Path) -> None:
    line = [sys.executable, "-c", STARVED, "compile", str(tiny.spec), "-w", str(tiny.weights), "-o", "out"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done
    assert done.stderr.startswith("error[E0710]: ") and not list(tmp_path.iterdir())


def test_ctrl_c_while_sampling(latentc: Run, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentc_runtime.Pipeline.run", interrupted)
    result = latentc("sample", tiny.bundle, "--class", "1", "-o", "a.png")
    assert (result.status, result.err) == (130, "interrupted\n")
    assert not Path("a.png").exists()


def test_ctrl_c_while_training(tiny: Any, tmp_path: Path) -> None:
    """train.py is told, saves a checkpoint and ends before the command does."""
    line = [sys.executable, "-m", "latentc", "train", str(tiny.spec), "-o", "project", "--steps", "1000000"]
    with (tmp_path / "log").open("w") as log:
        process = interruptible([*line, "--log-every", "1"], cwd=tmp_path, stdout=log, stderr=log)
    run = tmp_path / "project" / "runs" / "train"
    for _ in range(600):
        if "step 1/" in (tmp_path / "log").read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, (tmp_path / "log").read_text()
    assert any("step" in path.name for path in run.rglob("*")), sorted(run.rglob("*"))


def test_output_that_nobody_takes(tiny: Any, tmp_path: Path) -> None:
    line = f"{sys.executable} -m latentc check dit --resolved"
    full = subprocess.run(f"{line} > /dev/full", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert full.returncode == 1
    assert full.stderr.startswith("error[E0412]: cannot write: No space left on device\n")
    closed = subprocess.run(f"{line} >&-", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")


# ---- faults of ours


def test_internal_error(latentc: Run, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **keywords: Any) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr(api, "check", broken)
    result = latentc("check", tiny.spec)
    assert result.status == 2
    assert result.err.startswith("error[E0901]: AssertionError: impossible\n")
    assert "please report it" in result.err and "Traceback" not in result.err
    assert "Traceback" in latentc("check", tiny.spec, "--debug").err


def test_not_enough_memory(latentc: Run, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **keywords: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(api, "specs", broken)
    refused(latentc("specs"), "E0710")


def test_variants_are_checked_with_the_spec(latentc: Run, tmp_path: Path) -> None:
    """A spec is not sound whose variants are not; with a variant chosen, the others do not matter."""
    path = tmp_path / "family.yaml"
    variants = "  big: {backbone: {widht: 512}}\n  small: 3\n  deep: {backbone: {depth: 4}}\n"
    path.write_text(f"latentc: 1\nextends: digits_dit\nname: family\nvariants:\n{variants}")
    result = latentc("check", path)
    refused(result, "E0201")
    assert "`widht`" in result.err and "a variant must be a mapping" in result.err
    assert latentc("check", path, "--variant", "deep").status == 0
    refused(latentc("check", path, "--variant", "big"), "E0201")


def test_inherited_variants_need_not_fit_what_a_spec_changes(latentc: Run, tmp_path: Path) -> None:
    """Only the variants that a file declares, or changes, are its own to mend."""
    path = tmp_path / "mine.yaml"
    data = "{kind: npz, path: x.npz, shape: [4, 16, 16], classes: 0}"
    path.write_text(f"latentc: 1\nextends: uvit\nname: mine\ndata: {data}\nconditioning: {{class: null}}\n")
    assert "guidance needs a condition to drop" in latentc("check", path).err
    path.write_text(path.read_text() + "sampler: {kind: ddim, guidance: null}\n")
    assert latentc("check", path).status == 0
    refused(latentc("check", path, "--variant", "imagenet64-M/4"), "E0201")
    path.write_text(path.read_text() + "variants: {imagenet64-M/4: {train: {batch_size: 64}}}\n")
    refused(latentc("check", path), "E0201")
