"""What published objectives, processes and programs do for small models of digits, system by system.

    python benchmarks/training_digits.py [--out out/training_digits] [--only NAME …] [--seeds 0]
        [--train] [--int8] [--verify]

Trains what the systems of `training_systems.py` need if its weights are not in the folder, draws 1000 samples from an
engine, and says by how much the loss fell, the class accuracy and the Fréchet distance by the classifier of
examples/digits (or what a system is judged by), and whether the paper's claim holds. With several seeds, each of the
trainings, it says means and ranges. A goal that only the mean reaches is within noise; a comparison of two trainings
shows an effect with three seeds or more. `--train` only trains. `--int8` also judges a technique's engine with all
layers in int8 that can be, and `--verify` checks it by `latentc verify` in every loop form, on ONNX Runtime and
OpenVINO. A training takes half a minute to three minutes of one core, all of it one and a half hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import verdict
from digits_judges import JUDGES, write_data
from on_digits import Training, spread, trained
from training_parts import COMMON, FILES, Figures, System, Trained
from training_systems import SYSTEMS

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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings; 0: the specs' own")
    parser.add_argument("--train", action="store_true", help="train, and judge nothing")
    parser.add_argument("--int8", action="store_true", help="judge quantised engines, too")
    parser.add_argument("--verify", action="store_true", help="verify every loop form, too")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_data(out)
    lines = []
    for name in given.only:
        system = SYSTEMS[name]
        of_seeds = [system.of_seed(seed) for seed in given.seeds]
        for each in of_seeds:
            fallen(name, each, out)
        if given.train:
            continue
        found = {entry: all_figures(name, of_seeds, entry, out) for entry in system.drawn}
        if given.int8:
            all_figures(name, of_seeds, system.engine, out, INT8)
        if given.verify:
            verified(name, of_seeds[0], out)
        for goal in system.goals:
            values = [goal.value({entry: each[i] for entry, each in found.items()}) for i in range(len(of_seeds))]
            lines.append(f"{name}: " + verdict(goal.what, values, goal.bound, "", goal.least))
            print(lines[-1], flush=True)
    return int(any("MISSED" in line for line in lines))


def fallen(name: str, system: System, out: Path) -> None:
    """Trains a system, and prints by how much its losses fell."""
    for entry in system.trained:
        made = train(system, entry, out)
        fell = ", ".join(
            f"{what} {np.mean(each[:20]):.3g} to {np.mean(each[-20:]):.3g} in {len(each)} steps"
            for what, each in made.losses.items()
        )
        print(f"{name}: {entry}: {made.seconds:.0f} s: {fell}", flush=True)


def all_figures(name: str, systems: Sequence[System], entry: str, out: Path, *more: str) -> list[Figures]:
    """Figures of an entry for systems of different seeds; prints their means and ranges."""
    each = [figures(name, system, entry, out, *more) for system in systems]
    shown = (f"{what} {spread((found[what] for found in each), 4)}" for what in each[0])
    print(": ".join((name, entry, *more)) + ": " + ", ".join(shown), flush=True)
    return each


def overrides_of(one: Trained, out: Path) -> list[str]:
    """The overrides, with files where they are."""
    texts = [*one.overrides, *COMMON]
    for file in FILES:
        texts = [text.replace(file, str(out / file)) for text in texts]
    return texts


def folder_of(system: System, entry: str, out: Path) -> Path:
    """Where an entry is trained: the same for equal entries of different systems."""
    one = system.trained[entry]
    first = [str(folder_of(system, other, out)) for other in one.pretrained.values()]
    seed = [] if one.seed is None else [one.seed]
    key = json.dumps([one.spec, one.variant, one.steps, one.overrides, first, *seed])
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return out / "trained" / f"{one.spec}-{digest}"


def train(system: System, entry: str, out: Path) -> Training:
    """Trains an entry, and before it those that it starts from, if they are not there yet."""
    one = system.trained[entry]
    pretrained = {network: train(system, other, out).weights for network, other in one.pretrained.items()}
    project, overrides = folder_of(system, entry, out), overrides_of(one, out)
    return trained(one.spec, project, pretrained, overrides, seed=one.seed, variant=one.variant, steps=one.steps)


def compiled(name: str, system: System, entry: str, out: Path, *more: str) -> Path:
    """The bundle of something drawn."""
    drawn = system.drawn[entry]
    of = drawn.spec or system.trained[drawn.trained]
    weights: list[Path | str] = [train(system, drawn.trained, out).weights]
    if drawn.networks:
        others = {network: main_of(train(system, other, out).weights) for network, other in drawn.networks.items()}
        weights = [f"main={weights[0]}", *(f"{network}={file}" for network, file in others.items())]
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
