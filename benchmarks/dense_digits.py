"""Labels of pixels, predicted of held-out digits by GIVT: 0 of the background, 1 + class of the strokes.

    python benchmarks/dense_digits.py [--out out/dense_digits]

Trains an autoencoder of labels (`givt_dense_vae`), which makes 16 latents of them, and a model of these that is given
the image (`givt_dense`), if their weights are not in the folder: on digits, and on four copies of each that are moved
by a pixel. As in the authors' training, the model learns latents drawn from the autoencoder's posterior (8 draws per
image), not their means. Judged are what the autoencoder makes of held-out labels, and what the engine predicts: by the
mean over labels of intersection over union, and by the class that most pixels of an image are given. The goals were
set before anything was judged. Takes six minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from codes_digits import MODEL, TOKENIZER, under
from common import verdict
from numpy.typing import NDArray
from on_digits import images, shifted, trained

import latentc_runtime
from latentc import api

Array = NDArray[Any]
FIRST, LABELS, STROKE = 7_000_000, 11, -0.25  # strokes: 7 of 16 grey levels or more
DRAWS = 8
SIZES = ("width=64", "block.mixer.heads=4")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/dense_digits"), help="folder of projects and bundles")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    digits, classes = images(0)
    x = shifted(digits)
    maps = one_hot(labelled(x, np.tile(classes, 5)))
    np.savez(out / "labels.npz", x=maps)
    first = [
        f"data={{kind: npz, path: {out / 'labels.npz'}, shape: [{LABELS}, 8, 8]}}",
        *(*TOKENIZER, "objective.unlabelled=false", "train.steps=800"),
        *under("backbone", *SIZES, "tokens=16", "depth=1", "decoder_depth=1", "patch=2", "bottleneck.channels=4"),
    ]
    autoencoder = trained("givt_dense_vae", out / "tokenizer", overrides=first)

    def made(x: Array, method: str = "forward") -> Array:
        given = api.run_method("givt_dense_vae", autoencoder.weights, {"x": x}, "torch", method=method, overrides=first)
        return np.asarray(next(iter(given.values())))

    means, log_variances = np.split(np.tile(made(maps, "encode"), (DRAWS, 1, 1)), 2, axis=1)
    noise = np.random.default_rng(0).standard_normal(means.shape, dtype=np.float32)
    latents = means + np.exp(log_variances / 2) * noise
    scale = float(1 / latents.std())
    np.savez(out / "latents.npz", x=latents * scale, image=np.tile(x, (DRAWS, 1, 1, 1)))
    stage = out / "stage.yaml"
    stage.write_text(api.resolved("givt_dense_vae", overrides=first), encoding="utf-8")
    second = [
        f"data={{kind: npz, path: {out / 'latents.npz'}, shape: {list(means.shape[1:])}, "
        f"fields: {{image: {{shape: [1, 8, 8], medium: image}}}}, "
        f"first_stage: {{spec: {stage}, weights: {autoencoder.weights}, scale: {scale}}}}}",
        *(*MODEL, "train.optimizers={}", "train.steps=5000"),
        *under("networks.main", *SIZES, "depth=3"),
        *under("networks.encoder", *SIZES, "depth=2", "patch=2"),
    ]
    model = trained("givt_dense", out / "model", overrides=second)
    api.compile("givt_dense", model.weights, out / "bundle", overrides=second, force=True)
    held_out, labels = images(1)
    pipe, seeds = latentc_runtime.load(out / "bundle", "cpu", threads=1), np.arange(FIRST, FIRST + len(labels))
    found = pipe.sample(conditions={"image": held_out}, seeds=seeds).argmax(1)
    wanted = labelled(held_out, labels)
    kept = made(one_hot(wanted)).argmax(1)
    counts = np.stack([(found == 1 + label).sum((1, 2)) for label in range(10)])
    ends = [float(np.mean(part)) for part in (model.losses["loss"][:2], model.losses["loss"][-20:])]
    print(
        f"autoencoder {autoencoder.seconds:.0f} s, model {model.seconds:.0f} s, loss {ends[0]:.3g} to {ends[1]:.3g}; "
        f"{np.mean(found == wanted):.4f} of the pixels are right, and {np.mean(wanted == 0):.4f} are background"
    )
    lines = [
        verdict("givt_dense_vae: fall of the loss", autoencoder.fall(), 2.0),
        verdict("givt_dense_vae: intersection over union of reconstructions", overlap(kept, wanted), 0.9, ""),
        verdict("givt_dense: intersection over union of predictions", overlap(found, wanted), 0.7, ""),
        verdict("givt_dense: class of most pixels", float((counts.argmax(0) == labels).mean()), 0.9, ""),
    ]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def labelled(x: Array, classes: Array) -> Array:
    """Labels i64[N, 8, 8] of digits f32[N, 1, 8, 8]."""
    return np.where(x[:, 0] > STROKE, 1 + classes[:, None, None], 0)


def one_hot(labels: Array) -> Array:
    return np.eye(LABELS, dtype=np.float32)[labels].transpose(0, 3, 1, 2)


def overlap(found: Array, wanted: Array) -> float:
    """The mean over labels of intersection over union."""
    pairs = [(found == label, wanted == label) for label in range(LABELS)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


if __name__ == "__main__":
    sys.exit(main())
