"""`boxes_pix2nerf`: how far new views of a box, made of one image, are from the true ones.

    python benchmarks/pix2nerf_boxes.py [--out out/pix2nerf] [--seeds 3] [--steps N]
    python benchmarks/pix2nerf_boxes.py --data data/boxes.npz

With `--data` it only writes the file that the spec reads: 3000 boxes of two shapes and three colours, of various sizes
and tints, each seen once. Judged are 300 others, of each an image and its class, rendered from another camera by the
program `novel_view`: the root mean square error to the true image, in a range from -1 to 1, by the whole training, by
pi-GAN with an encoder (no reconstructions), by the mean image of the class, and by the image itself. Goal: the whole
training is better than each of the others for every seed. Of the first model, program `render` at several resolutions
is compared with the float64 oracle of a spec of that resolution, and points in one call with the same in two. What is
in the folder already is not trained again.
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
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.subject import open_subject
from latentc.spec import load_spec
from latentc_runtime import load

SPEC = "boxes_pix2nerf"
TRAININGS = {"whole": (), "no reconstructions": ("objective.reconstruction=0", "objective.conditional=0")}
SHAPES = np.array([[0.17, 0.12, 0.17], [0.10, 0.20, 0.10]])
"""Half the sides of the two shapes."""
COLOURS = np.array([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.25, 0.35, 0.95]])
SHADES = np.array([[0.45, 0.75], [1.0, 0.3], [0.95, 0.6]])
"""Brightness of the faces towards plus and minus x, y and z."""
SUBPIXELS = np.array([-1 / 3, 0.0, 1 / 3])

Array = np.ndarray[Any, Any]


def directions(side: int, fov: float) -> Array:
    """f64[9, P, 3]: rays through nine places of each pixel, in the space of the camera."""
    middle = pinhole(side, fov)
    middle = middle / -middle[:, 2:]  # in the plane at distance 1
    step = 2 * np.tan(np.radians(fov) / 2) / (side - 1)
    moved = [middle + step * np.array([x, y, 0.0]) for x in SUBPIXELS for y in SUBPIXELS]
    return np.stack([rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in moved])  # type: ignore[no-any-return]


def box(half: Array, colour: Array, camera: Array, rays: Array) -> Array:
    """f64[3, P]: what a camera (pitch, yaw) sees of a box around the origin, before white; from -1 to 1."""
    pitch, yaw = camera
    back = np.array([np.sin(pitch) * np.cos(yaw), np.cos(pitch), np.sin(pitch) * np.sin(yaw)])
    right = np.array([np.sin(yaw), 0.0, -np.cos(yaw)])
    towards = rays @ np.stack([right, np.cross(back, right), back])  # [9, P, 3]
    with np.errstate(divide="ignore"):
        one, other = (half - back) / towards, (-half - back) / towards
    enters, leaves = np.minimum(one, other), np.maximum(one, other).min(-1)
    axis = enters.argmax(-1)
    hit = enters.max(-1) < leaves
    sign = (np.take_along_axis(towards, axis[..., None], -1)[..., 0] > 0).astype(int)
    seen = np.where(hit[..., None], SHADES[axis, sign][..., None] * colour, 1.0)
    return seen.mean(0).T * 2 - 1  # type: ignore[no-any-return]


def boxes(count: int, views: int, seed: int) -> tuple[Array, Array, Array]:
    """(images f32[N, views, 3, 8, 8] of boxes, their classes i64[N], the cameras f32[N, views, 2])."""
    spec = load_spec(SPEC)
    main, camera = spec.networks["main"], spec.conditions["camera"]
    side = spec.data.shape[1]
    rng, rays = np.random.default_rng(seed), directions(side, main.fov)
    y = rng.integers(6, size=count)
    sizes = SHAPES[y // 3] * rng.uniform(0.75, 1.2, (count, 1))
    colours = np.clip(COLOURS[y % 3] + rng.uniform(-0.15, 0.15, (count, 3)), 0, 1)
    cameras = np.array(camera.mean) + np.array(camera.spread) * rng.uniform(-1, 1, (count, views, 2))
    x = [
        [box(half, colour, at, rays) for at in each] for half, colour, each in zip(sizes, colours, cameras, strict=True)
    ]
    return np.float32(x).reshape(count, views, 3, side, side), y, cameras.astype(np.float32)


def written(path: Path) -> Path:
    """The file of the training data, written if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        x, y, _ = boxes(3000, 1, 0)
        np.savez_compressed(path, x=x[:, 0], y=y)
    return path.resolve()


def error(made: Array, true: Array) -> float:
    """The root mean square error."""
    return float(np.sqrt(np.mean((made - true) ** 2)))


def at_any_resolution(bundle: Path) -> None:
    """Print how far `render` is from the oracle, and two calls of `field` from one."""
    subject, camera = open_subject(bundle), np.array([1.2, 1.9], np.float32)
    pipe, weights = subject.pipeline, {path: a for path, a in subject.arrays.items() if path.startswith("main.")}
    operands = {"z": pipe.noise(7, 1)["z"], "y": np.array([2]), "camera": camera[None]}
    for halvings in (2, 3, 5):
        side, widths = 2 ** (halvings + 1), [16, 32, 48, 48, 48, 48][: halvings + 1]
        sizes = [f"networks.{name}.widths={widths}" for name in ("discriminator", "encoder")]
        module = lower(load_spec(SPEC, overrides=[f"data.shape=[3, {side}, {side}]", *sizes])).module
        inputs = [operands[value.name] for value in module.entry("sample.1").inputs]
        (wanted,) = Interpreter(module, weights).run("sample.1", *inputs)
        found = pipe.sample([2], 7, conditions={"camera": camera, "pixels": side}, program="render")
        print(f"{side} pixels per side: {np.abs(found - wanted).max():.2g} from the oracle of that resolution")
    points = np.random.default_rng(0).uniform(-0.3, 0.3, (10_000, 3)).astype(np.float32)
    parts = (points, points[:5000], points[5000:])
    one, *two = (pipe.sample([2], 7, conditions={"points": part}, program="field") for part in parts)
    print(f"points in one call and in two: {np.abs(one - np.concatenate(two, axis=1)).max():.2g} apart")


def main() -> int:
    """Train, measure and say what was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/pix2nerf"), help="folder of projects and bundles")
    parser.add_argument("--data", type=Path, help="only write the training data to this file")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--steps", type=int, help="steps of training; by default those of the spec")
    args = parser.parse_args()
    if args.data is not None:
        print(written(args.data))
        return 0
    data = written(args.out / "boxes.npz")
    with np.load(data) as file:
        means = np.stack([file["x"][file["y"] == label].mean(0) for label in range(6)])
    x, y, cameras = boxes(300, 2, 1)
    found: dict[str, list[float]] = {name: [] for name in TRAININGS}
    for seed in range(args.seeds):
        for name, how in TRAININGS.items():
            folder, overrides = args.out / name.replace(" ", "_") / f"seed{seed}", (f"data.path={data}", *how)
            training = trained(SPEC, folder / "project", overrides=overrides, seed=seed, steps=args.steps)
            bundle = folder / "bundle.latentc"
            api.compile(SPEC, training.weights, bundle, overrides=list(overrides))
            given = {"image": x[:, 0], "camera": cameras[:, 1]}
            made = load(bundle, "cpu").sample(classes=y, conditions=given, program="novel_view")
            found[name].append(error(made, x[:, 1]))
            print(f"{name}, seed {seed}: {found[name][-1]:.4f} after {training.seconds:.0f} s", flush=True)
    for name, errors in found.items():
        print(f"{name}: {spread(errors)}")
    others = {
        "pi-GAN and an encoder": min(found["no reconstructions"]),
        "the mean of the class": error(means[y], x[:, 1]),
        "the image itself": error(x[:, 0], x[:, 1]),
    }
    at_any_resolution(args.out / "whole" / "seed0" / "bundle.latentc")
    for name, of in others.items():
        print(verdict(f"error beside {name}", found["whole"], of, "", least=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
