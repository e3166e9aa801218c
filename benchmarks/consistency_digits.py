"""Digits in two evaluations by a consistency model, and under the control of an adapter (CCM).

    python benchmarks/consistency_digits.py [--out out/consistency_digits] [--transfer] [--in-turn]

Trains digits_dit, digits_consistency (its consistency distillation) and digits_controlled (an adapter of the frozen
consistency model, given the digit's mean brightness in each quarter, by consistency training). The classifier of
examples/digits judges 1000 samples of each engine; the quarters are those of held-out digits of the class, and the
control error is the mean absolute difference of the samples' quarters from them. Goals: class accuracy of the
consistency model within 3 % of the teacher's in 100 evaluations; the adapter's control error at most a half of that
without control. With `--transfer` the same adapter is trained for digits_dit by diffusion, and its weights control the
consistency model: its control error should be the greater one. With `--in-turn` one adapter is given pictures of 2 × 2
or of 4 × 4 pixels (the variant `in-turn`): alone, each should at most halve the error in its pixels, too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from on_digits import images, judged, trained

import latentc_runtime
from latentc import api

COUNT, FRESH = 1000, 12_000_000
DIFFUSION = (
    "objective={kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity}",
    "sampler={kind: ddim, steps: 50, spacing: trailing}",
)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/consistency_digits"), help="projects and bundles")
    parser.add_argument("--transfer", action="store_true", help="compare with an adapter trained by diffusion")
    parser.add_argument("--in-turn", action="store_true", help="train one adapter on two conditions in turn")
    arguments = parser.parse_args()
    out: Path = arguments.out
    teacher = trained("digits_dit", out / "digits-dit").weights
    consistency = trained("digits_consistency", out / "digits-consistency", {"teacher": teacher}).weights
    adapter = trained("digits_controlled", out / "digits-controlled", {"main": consistency}).weights
    labels, low = asked()
    found = {
        "digits_dit, 100 evaluations": figures("digits_dit", teacher, out, labels, low, controlled=False),
        "consistency, 2": figures("digits_consistency", consistency, out, labels, low, controlled=False),
        "consistency, 1": figures("digits_consistency", consistency, out, labels, low, 1, controlled=False),
        "controlled, 2": figures("digits_controlled", adapter, out, labels, low),
        "controlled, 1": figures("digits_controlled", adapter, out, labels, low, 1),
    }
    if arguments.transfer:
        project = out / "digits-controlled-diffusion"
        other = trained("digits_controlled", project, {"main": teacher}, DIFFUSION).weights
        both = {"main": consistency, "adapter": other}
        found["controlled by diffusion's adapter, 2"] = figures("digits_controlled", both, out, labels, low)
    pairs = in_turn(out, consistency) if arguments.in_turn else {}
    for name, (own, without) in pairs.items():
        print(f"in turn, {name}: control error {own:.4f}, without {without:.4f}")
    for name, (accuracy, frechet, error) in found.items():
        print(f"{name}: accuracy {accuracy:.4f}, Fréchet distance {frechet:.3f}, control error {error:.4f}")
    many, two, _, own, _, *transferred = found.values()
    lines = [
        verdict("class accuracy of 2 evaluations, of the teacher's", two[0] / many[0], 0.97),
        verdict("control error, of that without control", own[2] / two[2], 0.5, least=False),
        *(
            verdict("control error, of that of diffusion's adapter", own[2] / one[2], 1.0, least=False)
            for one in transferred
        ),
        *(
            verdict(f"control error in turn, {name}, of that without control", own / without, 0.5, least=False)
            for name, (own, without) in pairs.items()
        ),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def asked() -> tuple[np.ndarray, np.ndarray]:
    """Classes, and the mean brightness of the quarters of held-out digits of them: [1, 2, 2] each."""
    heldout, labels = images(1)
    chosen = np.arange(COUNT) % len(labels)
    return labels[chosen], quarters(heldout[chosen])


def quarters(images: np.ndarray, side: int = 2) -> np.ndarray:
    """The mean brightness of squares, `side` of them in a row."""
    return np.asarray(images.reshape(len(images), 1, side, 8 // side, side, 8 // side).mean(axis=(3, 5)))


def in_turn(out: Path, consistency: Path) -> dict[str, tuple[float, float]]:
    """(control error, that without control) of an adapter that learns two conditions in turn, given one of them."""
    variant, folder = "in-turn", out / "bundles" / "digits_controlled-in-turn"
    project = out / "digits-controlled-in-turn"
    weights = trained("digits_controlled", project, {"main": consistency}, variant=variant).weights
    api.compile("digits_controlled", weights, folder, variant=variant)
    engine, (heldout, labels) = latentc_runtime.load(folder, "cpu"), images(1)
    chosen, seeds = np.arange(COUNT) % len(labels), np.arange(FRESH, FRESH + COUNT)
    found, free = {}, engine.sample(labels[chosen], seeds)
    for name, side in (("low", 2), ("fine", 4)):
        asked = quarters(heldout[chosen], side)
        samples = engine.sample(labels[chosen], seeds, conditions={name: asked})
        found[name] = tuple(float(np.abs(quarters(x, side) - asked).mean()) for x in (samples, free))
    return found  # type: ignore[return-value]


def figures(
    spec: str, weights: Any, out: Path, labels: np.ndarray, low: np.ndarray, steps: int = 0, controlled: bool = True
) -> tuple[float, float, float]:
    """(class accuracy, Fréchet distance, control error) of samples from the engine."""
    folder = out / "bundles" / f"{spec}-{steps}{'-transferred' * isinstance(weights, dict)}"
    api.compile(spec, weights, folder, overrides=[f"sampler.steps={steps}"] if steps else [])
    given = {"conditions": {"low": low}} if controlled else {}
    samples = latentc_runtime.load(folder, "cpu").sample(labels, np.arange(FRESH, FRESH + COUNT), **given)
    return *judged(samples, labels), float(np.abs(quarters(samples) - low).mean())


if __name__ == "__main__":
    sys.exit(main())
