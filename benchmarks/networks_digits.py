"""Every network that the diffusion systems bring, trained on the digits in one way, and what their papers say of them.

    python benchmarks/networks_digits.py [--out out/networks_digits] [--seeds 0] [--only GROUP …]
        [--networks NAME …] [--steps 600]

All train for 600 steps of 64 of scikit-learn's digits with the settings of `train`; they differ by the network alone,
except where the system is more than that (EDM's process in `diffit_image`, flow matching in `iwin` and `lightning_dit`,
equilibrium matching in `eqm`, losses at several scales in `dimr`, latents that are carried in `rin`). The classifier of
examples/digits judges 500 samples of the engine in 25 steps with a guidance scale of 1.5 (`rin`, `eqm`: 50;
`diffit_image`: 18 of Heun's method). Groups:

networks     loss at the start over loss at the end, class accuracy, Fréchet distance of each
inheritance  LiT from the weights of a trained DiT, and taught by it, in a quarter of the steps of one from scratch
generated    CAN against the DiT of its width and the one of its number of weights
experts      DiffMoE against a dense DiT, token choice and expert choice of equal activated compute
extrapolation  next-token loss beyond the trained length: KERPLE's biases against learned positions
int8         PSNR against fp32 and class accuracy of the networks in 8 bits, ONNX Runtime and OpenVINO

What is trained stays in the folder. On one core each training takes half a minute to two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import verdict
from digits_runs import NETWORKS, RUNS, SAMPLES, STEPS, Folder, requested, train, under
from numpy.typing import NDArray
from on_digits import drawn, halves, judged, spread, trained

import latentc_runtime
from latentc import api
from latentc.weights import Array, materialise, read_safetensors, write_safetensors

LEAST_ACCURACY, LEAST_FALL = 0.9, 2.0


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/networks_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="in `networks` and `int8`")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; give each number a folder of its own")
    given = parser.parse_args()
    folders = [Folder(given.out, seed, given.steps, tuple(given.networks)) for seed in given.seeds]
    lines = [line for group in given.only for line in GROUPS[group](folders)]
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


@dataclass(frozen=True)
class Row:
    """Means over the seeds."""

    accuracy: float
    frechet: float
    loss: float
    fall: float
    seconds: float


def row(folders: Sequence[Folder], name: str) -> Row:
    """Trains and judges one run with every seed, and prints it."""
    runs = [folder.trained(name) for folder in folders]
    judged = [folder.judged(name) for folder in folders]
    last = [float(np.mean(run.losses["loss"][-40:])) for run in runs]
    falls = [run.fall(last=40) for run in runs]
    print(
        f"{name}: loss fell {spread(falls, 2)} × to {spread(last, 4)}, accuracy {spread(f.accuracy for f in judged)}, "
        f"Fréchet distance {spread(f.frechet for f in judged)}, {spread((r.seconds for r in runs), 0)} s of training",
        flush=True,
    )
    accuracy, distance = (float(np.mean([f[i] for f in judged])) for i in (0, 1))
    seconds = float(np.mean([run.seconds for run in runs]))
    return Row(accuracy, distance, float(np.mean(last)), float(np.mean(falls)), seconds)


def networks(folders: Sequence[Folder]) -> list[str]:
    """Every network trains and draws what it is asked for."""
    rows = {name: row(folders, name) for name in folders[0].networks}
    lines = [verdict(f"{name}: class accuracy", r.accuracy, LEAST_ACCURACY, "") for name, r in rows.items()]
    return lines + [verdict(f"{name}: fall of the loss", r.fall, LEAST_FALL) for name, r in rows.items()]


def inheritance(folders: Sequence[Folder]) -> list[str]:
    """LiT's claim: started from a DiT and taught by it, a fraction of the steps does."""
    names = ("dit", "lit", "lit, a quarter of the steps", "lit, inherited weights", "lit, inherited and taught")
    _, scratch, quarter, inherited, taught = (row(folders, name) for name in names)
    what = "Fréchet distance in a quarter of the steps, to that of as many from scratch:"
    return [
        verdict(f"{what} inherited", inherited.frechet / quarter.frechet, 0.9, least=False),
        verdict(f"{what} inherited and taught", taught.frechet / quarter.frechet, 0.9, least=False),
        verdict("the same, to that of all steps from scratch", taught.frechet / scratch.frechet, 1.1, least=False),
        verdict(
            "seconds of training, inherited and taught, of from scratch",
            taught.seconds / scratch.seconds,
            0.5,
            least=False,
        ),
    ]


def generated(folders: Sequence[Folder]) -> list[str]:
    """CAN's claim: weights that depend on the condition are worth more than as many that do not."""
    same, can, wide = (row(folders, name) for name in ("dit", "can", "dit, the weights of can"))
    return [
        verdict("can: loss, of the DiT's of its width", can.loss / same.loss, 0.98, least=False),
        verdict("can: loss, of the DiT's of as many weights", can.loss / wide.loss, 1.0, least=False),
    ]


def experts(folders: Sequence[Folder]) -> list[str]:
    """DiffMoE's claim: better than a dense network and than token choice of equal activated compute."""
    names = ("dit", "token choice", "expert choice", "diffmoe")
    dense, token, expert, pool = (row(folders, name) for name in names)
    others = {"a dense network": dense, "token choice": token, "expert choice": expert}
    return [
        verdict(f"diffmoe: loss, of {name}'s", pool.loss / other.loss, 1.0, least=False)
        for name, other in others.items()
    ]


SHORT, WHOLE = 32, 64  # tokens of a crop that is trained on, and of a whole digit
JUDGED = 300  # digits
KERNEL = "backbone.block.mixer={kind: kerple_attention, heads: 4, causal: true, bias: false, kernel: {kind: %s}}"
PLACES = {
    "learned positions": ("backbone.positions={kind: learned}",),
    "kerple_log": ("backbone.positions=null", KERNEL % "kerple_log"),
    "kerple_power": ("backbone.positions=null", KERNEL % "kerple_power"),
}


def extrapolation(folders: Sequence[Folder]) -> list[str]:
    """KERPLE's claim: the loss does not grow beyond the trained length.

    Digits are read as sequences of 64 pixels; crops of 32 of them are trained on. Judged are pixels 32 to 63 of digits
    that nothing has seen, given all pixels before, against the same network given the last 31 alone.
    """
    beyond = {}
    for name, places in PLACES.items():
        found = [_losses(folder, name, places) for folder in folders]
        within, window, whole = (spread(f[i] for f in found) for i in range(3))
        print(
            f"{name}: loss per token within the length {within}; beyond, of a window {window}, of all {whole}",
            flush=True,
        )
        beyond[name] = float(np.mean([f[2] / f[1] for f in found]))
    goal = "loss beyond the trained length, of a window's"
    lines = [verdict(f"{name}: {goal}", beyond[name], 1.02, least=False) for name in list(PLACES)[1:]]
    print(f"learned positions: {goal}: {beyond['learned positions']:.2f} ×")
    return lines


def _losses(folder: Folder, name: str, places: tuple[str, ...]) -> tuple[float, float, float]:
    """Losses per token: of the first tokens; of those beyond the trained length in a window, and given all before."""
    crops = (folder.out / "crops.npz").resolve()
    if not crops.exists():
        digits = halves()[0]
        levels = digits.images.reshape(-1, WHOLE).astype(np.int64)
        starts = range(WHOLE - SHORT + 1)
        crops.parent.mkdir(parents=True, exist_ok=True)
        tokens = np.concatenate([levels[:, i : i + SHORT] for i in starts])
        np.savez(crops, tokens=tokens, y=np.tile(digits.labels, len(starts)))

    def overrides(length: int) -> list[str]:
        data = f"data={{kind: npz, path: {crops}, classes: 10, tokens: {{vocabulary: 17, grid: [{length}]}}}}"
        return [data, *places, *under("backbone", "dropout=0", "block.mixer.dropout=0"), train(folder.steps)]

    project = folder.project(name)
    weights = trained("digits_llamagen", project, overrides=overrides(SHORT), seed=folder.seed).weights
    arrays = {path: materialise(expr) for path, expr in read_safetensors(weights).items()}
    if "pos_embed" in arrays:  # positions that were not trained have their initial values
        rng = np.random.default_rng(folder.seed)
        short = arrays["pos_embed"]
        fresh = 0.02 * rng.standard_normal((1, WHOLE - SHORT, short.shape[2]))
        arrays["pos_embed"] = np.concatenate([short, fresh.astype(np.float32)], axis=1)
    longer = project / "longer.safetensors"
    write_safetensors(longer, {path: Array(array) for path, array in arrays.items()})
    digits = halves()[1]
    levels, labels = digits.images.reshape(-1, WHOLE).astype(np.int64)[:JUDGED], digits.labels[:JUDGED]

    def losses(tokens: NDArray[np.integer], classes: NDArray[np.integer], file: Path) -> NDArray[np.floating]:
        given = {"idx": tokens[:, :-1], "y": classes}
        logits = api.forward("digits_llamagen", file, given, "onnx", overrides=overrides(tokens.shape[1]))
        logits = logits - logits.max(axis=-1, keepdims=True)
        right = np.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        return np.asarray(np.log(np.exp(logits).sum(axis=-1)) - right)

    whole = losses(levels, labels, longer)
    ends = range(SHORT, WHOLE)
    windows = np.concatenate([levels[:, end - SHORT + 1 : end + 1] for end in ends])
    window = losses(windows, np.tile(labels, len(ends)), weights)[:, -1]
    return float(whole[:, :SHORT].mean()), float(window.mean()), float(whole[:, SHORT:].mean())


PRECISIONS = {"onnxruntime": "fp32", "openvino": "bf16"}  # beside which 8 bits are compiled
INT8 = "optimize.quantize={scheme: int8, min_speedup: 0}"


def int8(folders: Sequence[Folder]) -> list[str]:
    """Samples of the networks in 8 bits. Networks so small are no faster for it: `quantised.py` times large ones."""
    folder, lines = folders[0], []
    for name in folder.networks:
        run, weights, plain = RUNS[name], folder.trained(name).weights, folder.judged(name)
        for engine, precision in PRECISIONS.items():
            target = f"target={{engine: {engine}, precision: {precision}}}"
            bundle = folder.project(name) / f"int8_{engine}"
            api.compile(run.spec, weights, bundle, overrides=[*folder.overrides(name), target, INT8], force=True)
            found = latentc_runtime.load(bundle, "cpu").manifest.quantization
            assert found is not None
            samples = drawn(bundle, SAMPLES, told=requested if run.captions else None)
            figures = judged(samples, np.arange(SAMPLES) % 10)
            print(f"{name}, {engine}: {found.layers} of {found.of} layers, {found.psnr:.1f} dB, {figures}", flush=True)
            kept = figures.accuracy / plain.accuracy
            lines.append(verdict(f"{name}, {engine}: class accuracy in 8 bits, of that in fp32", kept, 0.98))
    return lines


GROUPS: dict[str, Callable[[Sequence[Folder]], list[str]]] = {
    "networks": networks,
    "inheritance": inheritance,
    "generated": generated,
    "experts": experts,
    "extrapolation": extrapolation,
    "int8": int8,
}

if __name__ == "__main__":
    sys.exit(main())
