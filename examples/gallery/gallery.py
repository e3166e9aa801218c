"""Every system that learns small data, trained, compiled and sampled from its engine.

    python examples/gallery/gallery.py [--out out/gallery] [--docs] [NAME …]

Each NAME (all of them by default) is trained where its weights are not in the folder yet, so an interrupted run goes
on. The digits are judged as the demo judges them, the sounds by their pitch, the movements by where they end.
Takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from small_data import STEPS, pitch_classes, reaches, tones

from latentc import api
from latentc_runtime import Pipeline, grid, load

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "digits"))
from metrics import LEVELS, Judge  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@dataclass(frozen=True)
class Entry:
    """A system: its spec, what it is, and what draws and judges it."""

    spec: str
    title: str
    drawn: Callable[[Pipeline, plt.Axes], str]

    @property
    def name(self) -> str:
        """The name of the spec itself, which its folders carry."""
        return Path(self.spec).stem.replace("_", "-")


def digits(pipe: Pipeline, axes: plt.Axes) -> str:
    """A grid with a column per class; accuracy and Fréchet distance of as many samples as were held out."""
    picture = grid(pipe.images(pipe.sample(np.tile(np.arange(10), 8), seeds=0)), columns=10, gap=1)
    axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    labels = np.sort(judge().heldout.labels)
    made = pipe.sample(labels, seeds=1000)
    levels = made.reshape(-1, 8, 8) if made.dtype.kind == "i" else (made[:, 0] + 1) * (LEVELS / 2)
    found = judge().report(np.clip(levels, 0, LEVELS), labels)
    return f"class accuracy {found.accuracy:.3f}, Fréchet distance {found.frechet:.3f}"


def sounds(pipe: Pipeline, axes: plt.Axes) -> str:
    """Two sounds per class, one below the other; how often the pitch is that of the class."""
    made = pipe.sample(np.repeat(np.arange(3), 2), seeds=0)
    for row, (sound, color) in enumerate(zip(made[:, 0], ("C0", "C0", "C1", "C1", "C2", "C2"), strict=True)):
        axes.plot(sound[:256] / 2 - row, color=color, linewidth=0.8)
    axes.set_yticks([0.0, -2.0, -4.0], ["low", "middle", "high"])
    axes.set_xticks([])
    classes = np.arange(300) % 3
    return f"class accuracy {np.mean(pitch_classes(pipe.sample(classes, seeds=1000)) == classes):.3f}"


def movements(pipe: Pipeline, axes: plt.Axes) -> str:
    """Movements and the clouds they go to; the distance of their ends from the middle."""
    data = reaches(200, seed=1)
    seen = {name: data[name] for name in ("point_cloud", "agent_pos")}
    made = pipe.sample(conditions=seen, seeds=1000)
    for path, cloud in list(zip(made, data["point_cloud"], strict=True))[:8]:
        (line,) = axes.plot(*path.T, marker=".", linewidth=1)
        axes.scatter(*cloud[1, :, :2].T, s=3, color=line.get_color(), alpha=0.4)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    start, goal = data["x"][:, 0], data["x"][:, STEPS - 1]
    away, way = np.linalg.norm(made[:, STEPS - 1] - goal, axis=-1), np.linalg.norm(goal - start, axis=-1)
    return f"ends {np.median(away):.3f} from the goal, a way of {np.median(way):.2f} (medians)"


ENTRIES = (
    Entry("digits_dit", "DiT: diffusion transformer, 50 steps", digits),
    Entry("digits_guided", "DiT, guidance distilled", digits),
    Entry("digits_distilled", "DiT, distilled to 4 steps", digits),
    Entry("digits_uvit", "U-ViT: long skips, 20 steps", digits),
    Entry("digits_edm", "EDM: U-Net, 18 Heun steps", digits),
    Entry("digits_edm2", "EDM2: magnitude-preserving U-Net, 18 Heun steps", digits),
    Entry("digits_sit", "SiT: flow matching, 25 Heun steps", digits),
    Entry("digits_tarflow", "TarFlow: normalising flow", digits),
    Entry("digits_llamagen", "LlamaGen: autoregressive", digits),
    Entry("digits_maskgit", "MaskGIT: masked tokens, 16 steps", digits),
    Entry("digits_mar", "MAR: masked tokens, diffusion head", digits),
    Entry("digits_vae", "VAE: one pass of the decoder", digits),
    Entry("digits_biggan", "BigGAN: one pass", digits),
    Entry("digits_wgan_gp", "WGAN-GP: one pass", digits),
    Entry(str(HERE / "tones.yaml"), "DiffWave: sounds of three pitches", sounds),
    Entry(str(HERE / "reach.yaml"), "DP3: an arm reaches for a cloud", movements),
)
PAGE = """\
# Gallery

Samples of every system that learns small data, drawn by its engine: the shipped specs `digits_…` on one half of
scikit-learn's handwritten digits, DiffWave on sounds of three pitches, and DP3 on movements of an arm that reaches
for a cloud of points. `make gallery` trains them all on two cores and draws this page.

![A grid per system, a column per digit; sounds as waveforms, movements as paths](images/gallery.png)

Accuracy is that of a classifier of real digits, the Fréchet distance that of its features from the half of the digits
that nothing has seen; between the two real halves it is 0.225. Both are of 899 samples. The sounds' accuracy is that of
their loudest frequency. Training took so many seconds of one core:

| spec | what | training | samples |
|---|---|---|---|"""

_judges: list[Judge] = []


def judge() -> Judge:
    """The judge of digits, trained at its first use."""
    if not _judges:
        _judges.append(Judge.fit())
    return _judges[0]


def made(entry: Entry) -> dict[str, Any]:
    """The bundle of a system in this folder, trained if its weights are not there; the processor time of training."""
    facts, bundle = Path(entry.name, "facts.json"), Path(f"{entry.name}.latentc")
    if not facts.is_file():
        before = _processor_seconds()
        api.train(entry.spec, arguments=["--resume", "true"])
        facts.write_text(json.dumps({"processor_seconds": _processor_seconds() - before}))
    api.compile(entry.spec, f"{entry.name}/runs/train/weights.safetensors", bundle)
    return {**json.loads(facts.read_text()), "pipe": load(bundle)}


def _processor_seconds() -> float:
    """Of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Draw the gallery and write its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as digits_dit; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out/gallery", help="folder of projects and bundles")
    parser.add_argument("--docs", action="store_true", help="write docs/gallery.md and its picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.chdir(args.out)
    np.savez("tones.npz", **tones(2000, seed=0))
    np.savez("reach.npz", **reaches(5000, seed=0))
    chosen = [e for e in ENTRIES if not args.names or Path(e.spec).stem in args.names]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.2 * rows), squeeze=False, dpi=110)
    lines = []
    for entry, axes in zip(chosen, panels.flat, strict=False):
        print(f"== {entry.title}", flush=True)
        found = made(entry)
        quality = entry.drawn(found["pipe"], axes)
        axes.set_title(entry.title, fontsize=10)
        spec = Path(entry.spec).stem
        lines.append(f"| `{spec}` | {entry.title} | {found['processor_seconds']:.0f} s | {quality} |")
        print(lines[-1], flush=True)
    for axes in panels.flat[len(chosen) :]:
        axes.set_axis_off()
    figure.tight_layout()
    picture, page = Path("gallery.png"), Path("gallery.md")
    if args.docs:
        picture, page = ROOT / "docs/images/gallery.png", ROOT / "docs/gallery.md"
    figure.savefig(picture)
    page.write_text("\n".join([PAGE, *lines, ""]), encoding="utf-8")
    print(f"{picture} {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
