"""What published objectives, processes and programs do for small models of digits, system by system.

    python benchmarks/training_digits.py [--out out/training_digits] [--only NAME …] [--train] [--int8] [--verify]

Trains what the systems of `training_systems.py` need if its weights are not in the folder, draws 1000 samples from an
engine, and says by how much the loss fell, the class accuracy and the Fréchet distance by the classifier of
examples/digits (or what a system is judged by), and whether the paper's claim holds. `--train` only trains. `--int8`
also judges a technique's engine with all layers in int8 that can be, and `--verify` checks it by `latentc verify` in
every loop form, on ONNX Runtime and OpenVINO. A training takes half a minute to three minutes of one core, all of it
one and a half hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import runpy
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from common import verdict
from digits_judges import JUDGES, write_data
from training_systems import COMMON, FILES, SYSTEMS, Figures, System, Trained

from latentc import api
from latentc.diagnostics import DiagnosticError

INT8 = "optimize.quantize={scheme: int8}"
FORMS = ("unroll", "loop", "host")
ENGINES = ("onnxruntime", "openvino")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/training_digits"), help="projects, weights and bundles")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="some of the systems")
    parser.add_argument("--train", action="store_true", help="train, and judge nothing")
    parser.add_argument("--int8", action="store_true", help="judge quantised engines, too")
    parser.add_argument("--verify", action="store_true", help="verify every loop form, too")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    write_data(out)
    lines = []
    for name in given.only:
        system = SYSTEMS[name]
        for entry in system.trained:
            facts = train(system, entry, out)
            fell = ", ".join(f"{what} {begin:.3g} to {end:.3g}" for what, (begin, end) in facts["fell"].items())
            print(f"{name}: {entry}: {facts['steps']} steps, {facts['seconds']:.0f} s: {fell}", flush=True)
        if given.train:
            continue
        found: dict[str, Figures] = {}
        for entry in system.drawn:
            found[entry] = figures(name, system, entry, out)
            shown(f"{name}: {entry}", found[entry])
        if given.int8:
            shown(f"{name}: {system.engine}, int8", figures(name, system, system.engine, out, INT8))
        if given.verify:
            verified(name, system, out)
        for goal in system.goals:
            lines.append(f"{name}: " + verdict(goal.what, goal.value(found), goal.bound, "", goal.least))
            print(lines[-1], flush=True)
    return int(any("MISSED" in line for line in lines))


def shown(what: str, found: Figures) -> None:
    """Prints figures in a line."""
    print(f"{what}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)


def overrides_of(trained: Trained, out: Path) -> list[str]:
    """The overrides, with files where they are."""
    texts = [*COMMON, *trained.overrides]
    for file in FILES:
        texts = [text.replace(file, str(out / file)) for text in texts]
    return texts


def folder_of(system: System, entry: str, out: Path) -> Path:
    """Where an entry is trained: the same for equal entries of different systems."""
    trained = system.trained[entry]
    first = [str(folder_of(system, other, out)) for other in trained.pretrained.values()]
    key = json.dumps([trained.spec, trained.variant, trained.steps, trained.overrides, first])
    return (
        out / "trained" / f"{re.sub('[^a-z0-9]+', '_', entry.lower())}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    )


def weights_of(system: System, entry: str, out: Path) -> Path:
    """The file of an entry's weights."""
    return folder_of(system, entry, out) / "runs/train/weights.safetensors"


def train(system: System, entry: str, out: Path) -> dict:
    """Trains an entry if it is not there yet; its seconds, and every loss at first and at last, means of 20 steps."""
    project, trained = folder_of(system, entry, out), system.trained[entry]
    facts = project / "facts.json"
    if not facts.exists():
        api.emit(trained.spec, project, trained.variant, overrides_of(trained, out))
        flags = [] if trained.steps is None else ["--steps", str(trained.steps)]
        for network, other in trained.pretrained.items():
            train(system, other, out)
            flags += [f"--roles.{network}.pretrained", str(weights_of(system, other, out))]
        begin = time.perf_counter()
        log = forked(project, *flags)
        rows = [
            dict(re.findall(r"([\w/]+) ([-+.\deinfa]+)", line)) for line in log.splitlines() if line.startswith("step ")
        ]
        losses = {
            name: [float(row[name]) for row in rows] for name in rows[0] if name.split("/")[-1] in ("loss", "error")
        }
        fell = {name: (float(np.mean(of[:20])), float(np.mean(of[-20:]))) for name, of in losses.items()}
        facts.write_text(json.dumps({"steps": len(rows), "seconds": time.perf_counter() - begin, "fell": fell}))
    return json.loads(facts.read_text())


def forked(project: Path, *flags: str) -> str:
    """What `train.py FLAGS` prints, run in a fork of this process: it has imported PyTorch, which takes seconds."""
    import torch  # noqa: F401

    log = project / "log.txt"
    if not (child := os.fork()):
        with log.open("w") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
        os.chdir(project)
        sys.path.insert(0, str(project))
        sys.argv = ["train.py", *flags]
        try:
            runpy.run_path("train.py", run_name="__main__")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"training failed: {log}")
    return log.read_text()


def compiled(name: str, system: System, entry: str, out: Path, *more: str) -> Path:
    """The bundle of something drawn."""
    drawn = system.drawn[entry]
    of = drawn.spec or system.trained[drawn.trained]
    weights: list[Path | str] = [weights_of(system, drawn.trained, out)]
    if drawn.networks:
        weights = [
            f"main={weights[0]}",
            *(f"{n}={main_of(weights_of(system, e, out))}" for n, e in drawn.networks.items()),
        ]
    suffix = "_".join(("", *more))
    folder = out / "bundles" / re.sub("[^a-z0-9]+", "_", f"{name} {entry} {suffix}".lower())
    api.compile(of.spec, weights, folder, of.variant, [*overrides_of(of, out), *drawn.overrides, *more], force=True)
    return folder


def main_of(weights: Path) -> Path:
    """A file of the network `main` alone, under names without a prefix."""
    from safetensors.numpy import load_file, save_file

    tensors, alone = load_file(weights), weights.with_name("main.safetensors")
    own = {name.removeprefix("main."): array for name, array in tensors.items() if name.startswith("main.")}
    save_file(own or tensors, alone)  # of a lone network the names have no prefix
    return alone


def figures(name: str, system: System, entry: str, out: Path, *more: str) -> Figures:
    """What the judge of an entry says of its samples, and the processor's seconds that they took."""
    drawn = system.drawn[entry]
    bundle = compiled(name, system, entry, out, *more)
    begin = time.process_time()
    found = JUDGES[drawn.judge](bundle, out, **drawn.given)
    return {**found, "seconds": time.process_time() - begin}


def verified(name: str, system: System, out: Path) -> None:
    """Prints what `latentc verify` says of the first of each spec drawn, in every loop form on each engine."""
    for engine in ENGINES:
        for form in FORMS:
            settings = (f"target.engine={engine}", f"target.form={form}")
            try:
                report = api.verify(compiled(name, system, system.engine, out, *settings))
                said = "passes" if report.ok else "FAILS"
            except DiagnosticError as error:
                said = str(error).splitlines()[0]
            print(f"{name}: verify {engine} {form}: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
