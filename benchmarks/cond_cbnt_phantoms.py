"""`phantoms_cond_cbnt`: new patients from few projections, by a field that others have taught, and without it.

    python benchmarks/cond_cbnt_phantoms.py [--out out/cond_cbnt] [--seeds 3] [--steps N]
    python benchmarks/cond_cbnt_phantoms.py --data data/phantoms.npz

With `--data` it only writes the file that the spec reads: 24 projections each of 40 phantoms, a body with two lungs, a
heart and a nodule, whose line integrals are exact. Then 4 others are reconstructed from 2 noisy projections each: codes
alone are fitted to a field that the 40 have trained (`pretrained`, `frozen_weights`), or the field as well from the
start, for 400 steps. Judged is the peak signal-to-noise ratio of the densities on a grid of 16 points per axis, beside
the mean of the 40 phantoms. Goal: the trained field is better than both for every seed. What is in the folder already
is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from on_digits import spread, trained

from latentc import api
from latentc.components.kit.rays import pinhole
from latentc.spec import load_spec
from latentc_runtime import load

SPEC = "phantoms_cond_cbnt"
PATIENTS, NEW, FEW, NOISE, FIT = 40, 4, 2, 0.02, 400
FROZEN = 'networks.main.frozen_weights=["field.*", "modulation.*"]', "train.optimizer.lr=0.02"
"""Codes alone are trained, at ten times the learning rate of fields, as the authors have it."""

Array = np.ndarray[Any, Any]


def phantom(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """(centres f64[5, 3], radii f64[5, 3], densities f64[5]) of the ellipsoids of a patient, whose densities add up."""
    body = rng.uniform(0.95, 1.05, 3) * [0.62, 0.85, 0.45] * rng.uniform(0.9, 1.05)
    apart, lung = rng.uniform(0.22, 0.26), rng.uniform(0.85, 1.1, 3) * [0.16, 0.42, 0.2]
    nodule = [apart * rng.choice([-1, 1]), rng.uniform(-0.2, 0.3), rng.uniform(-0.08, 0.08)]
    heart = [0.05, rng.uniform(-0.2, 0.1), 0.1]
    centres = np.array([[0.0, 0.0, 0.0], [apart, 0.05, 0.0], [-apart, 0.05, 0.0], heart, nodule])
    radii = [body, lung, lung * rng.uniform(0.9, 1.1, 3), [0.14, 0.17, 0.14], np.full(3, rng.uniform(0.08, 0.13))]
    return centres, np.array(radii), np.array([0.4, -0.3, -0.3, 0.25, 0.3])


def density(patient: tuple[Array, Array, Array], points: Array) -> Array:
    """f64[...]: the density at points [..., 3]."""
    centres, radii, densities = patient
    inside = (((points[..., None, :] - centres) / radii) ** 2).sum(-1) <= 1
    return (inside * densities).sum(-1)  # type: ignore[no-any-return]


def projection(patient: tuple[Array, Array, Array], angle: float, main: Any, side: int) -> Array:
    """f64[side, side]: exact line integrals along the rays of the beam, in the geometry of the network."""
    away = np.array([np.cos(angle), 0.0, np.sin(angle)])
    across = np.array([np.sin(angle), 0.0, -np.cos(angle)])
    rays = pinhole(side, main.fov) @ np.stack([across, [0.0, 1.0, 0.0], away])
    centres, radii, densities = patient
    start, towards = (main.distance * away - centres) / radii, rays[:, None] / radii  # in unit spheres
    a, b, c = (towards**2).sum(-1), (towards * start).sum(-1), (start**2).sum(-1) - 1
    chords = 2 * np.sqrt(np.maximum(b**2 - a * c, 0)) / a
    return (chords @ densities).reshape(side, side)  # type: ignore[no-any-return]


def measured(patients: list[Any], angles: Array, noise: float, rng: np.random.Generator) -> dict[str, Array]:
    """The arrays of a file: a projection per patient and angle [P, N], with normal noise."""
    spec = load_spec(SPEC)
    main, side = spec.networks["main"], spec.data.fields["x"].shape[1]
    x = [projection(p, a, main, side) for p, own in zip(patients, angles, strict=True) for a in own]
    seen = np.float32(x)[:, None] + np.float32(noise) * rng.standard_normal((len(x), 1, side, side), np.float32)
    y = np.repeat(np.arange(len(patients)), angles.shape[1])
    return {"x": seen, "y": y, "angle": np.float32(angles).reshape(-1, 1)}


def patients(count: int, seed: int) -> list[Any]:
    """Phantoms of a seed."""
    rng = np.random.default_rng(seed)
    return [phantom(rng) for _ in range(count)]


def written(path: Path) -> Path:
    """The file of the training data, written if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        angles = (np.arange(24) / 24 + rng.uniform(0, 1 / 24, (PATIENTS, 1))) * 2 * np.pi
        np.savez_compressed(path, **measured(patients(PATIENTS, 0), angles, NOISE, rng))
    return path.resolve()


def few(path: Path) -> Path:
    """The file of few projections of new patients."""
    if not path.exists():
        rng = np.random.default_rng(3)
        angles = (np.arange(FEW) / FEW + rng.uniform(0, 1 / FEW, (NEW, 1))) * np.pi
        np.savez_compressed(path, **measured(patients(NEW, 2), angles, NOISE, rng))
    return path.resolve()


def volumes(of: list[Any]) -> Array:
    """f64[N, R, R, R]: densities at the middles of the cells of the grid."""
    resolution = load_spec(SPEC).sampler.resolution
    line = (np.arange(resolution) * 2 + 1) / resolution - 1
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    return np.stack([density(patient, grid) for patient in of])


def psnr(found: Array, true: Array) -> float:
    """The mean over patients of the peak signal-to-noise ratio, in decibels, of densities from 0 to 1."""
    errors = ((found - true) ** 2).mean((1, 2, 3))
    return float(-10 * np.log10(errors).mean())


def main() -> int:
    """Train, measure and say what was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/cond_cbnt"), help="folder of projects and bundles")
    parser.add_argument("--data", type=Path, help="only write the training data to this file")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--steps", type=int, help="steps of training; by default those of the spec")
    args = parser.parse_args()
    if args.data is not None:
        print(written(args.data))
        return 0
    known, new = written(args.out / "phantoms.npz"), few(args.out / "new.npz")
    true, mean = volumes(patients(NEW, 2)), volumes(patients(PATIENTS, 0)).mean(0)
    found: dict[str, list[float]] = {"field of others": [], "from the start": []}
    for seed in range(args.seeds):
        folder = args.out / f"seed{seed}"
        first = trained(SPEC, folder / "others", overrides=(f"data.path={known}",), seed=seed, steps=args.steps)
        print(f"40 patients, seed {seed}: {first.seconds:.0f} s", flush=True)
        of_new = (f"data.path={new}", f"data.classes={NEW}")
        started = (f"networks.main.pretrained={first.weights}", "networks.main.fresh_weights=[codes]", *FROZEN)
        for name, how in zip(found, (started, ()), strict=True):
            own, overrides = folder / name.replace(" ", "_"), (*of_new, *how)
            training = trained(SPEC, own / "project", overrides=overrides, seed=seed, steps=args.steps or FIT)
            api.compile(SPEC, training.weights, own / "bundle.latentc", overrides=list(of_new))
            made = load(own / "bundle.latentc", "cpu").sample(np.arange(NEW), program="volume")
            found[name].append(psnr(made[:, 0], true))
            print(f"{name}, seed {seed}: {found[name][-1]:.2f} dB after {training.seconds:.0f} s", flush=True)
    for name, values in found.items():
        print(f"{name}: {spread(values, 2)} dB")
    others = {"fields from the start": max(found["from the start"]), "the mean phantom": psnr(mean[None], true)}
    for name, of in others.items():
        print(verdict(f"new patients beside {name}", found["field of others"], of, "dB"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
