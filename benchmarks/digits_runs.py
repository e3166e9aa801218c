"""The runs of `networks_digits.py`: shipped specs as small networks of digits, all trained with the same settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from on_digits import Figures, Training, figures, images, trained

STEPS = 600
SAMPLES = 500  # that are judged


def train(steps: int) -> str:
    """The settings of all trainings."""
    return (
        f"train={{steps: {steps}, batch_size: 64, optimizer: {{kind: adamw, lr: 2e-3}}, "
        "schedule: {kind: cosine, warmup: 50, final: 0.1}, ema: 0.99, clip: 1.0, precision: fp32, parallel: none, "
        "log_every: 5, checkpoint_every: 10000}"
    )


def under(path: str, *sizes: str) -> tuple[str, ...]:
    """Overrides of one part of a spec."""
    return tuple(f"{path}.{size}" for size in sizes)


GUIDANCE = "guidance: {scale: 1.5}"
DIFFUSION = "kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity"
DDIM = f"sampler={{kind: ddim, steps: 25, spacing: trailing, {GUIDANCE}}}"
DATA = "data={kind: digits}"
PLAIN = (DATA, f"objective={{{DIFFUSION}}}", DDIM)
TRANSFORMER = under("backbone", "width=64", "depth=4", "patch=2", "block.mixer.heads=4")
LINEAR = "block.mixer={kind: linear_attention, heads: 2, kernel: 5}"
EXPERTS = "backbone.interleaved={kind: %s, experts: 4, %s}"


@dataclass(frozen=True)
class Run:
    """A shipped spec and what makes it a small one of digits, and its share of the steps.

    `teacher` names the run whose weights it starts from; `captions`: its condition is the class as a caption.
    """

    spec: str
    overrides: tuple[str, ...]
    share: float = 1.0
    teacher: str | None = None
    captions: bool = False


RUNS: dict[str, Run] = {
    "dit": Run("dit", (*PLAIN, *TRANSFORMER)),
    "dico": Run("dico", (*PLAIN, *under("backbone", "width=32", "depths=[1, 1, 1, 1, 1]"))),
    "dimr": Run(
        "dimr",
        (
            DATA,
            "objective={kind: diffusion, process: {kind: discrete, schedule: cosine, time_offset: 1}, "
            "predicts: velocity, further: [{kind: multi_scale, scales: [0.25]}]}",
            DDIM,
            "backbone.branches=[{width: 64, half: 1, patch: 2, block: coarse}, {width: 32, half: 1}]",
            "backbone.coarse.mixer.heads=4",
        ),
    ),
    "diffit": Run("diffit", (*PLAIN, *TRANSFORMER)),
    "diffit_image": Run(
        "diffit_image",
        (
            *(DATA, "conditioning.augment=null", "conditioning.class={kind: label, dropout: 0.1}"),
            f"sampler={{kind: heun, steps: 18, {GUIDANCE}}}",
            *under("backbone", "width=32", "multipliers=[1, 2, 1]", "depths=[1, 1, 1]", "embedding=128"),
            "backbone.block.condition.convolution_groups=8",
        ),
    ),
    "ascan": Run(
        "ascan",
        (
            *(*PLAIN, *under("backbone", "width=32", "multipliers=[1, 2, 1]", "convolutions=[2, 1, 2]")),
            *under("backbone", "depths=[0, 2, 0]", "heads=[2, 4, 2]", "embedding=128", "block.mixer.heads=4"),
        ),
    ),
    "iwin": Run(
        "iwin",
        (
            *(DATA, f"sampler={{kind: euler, steps: 25, {GUIDANCE}}}"),
            *under("backbone", "width=64", "depth=4", "block.mixer.size=4", "block.mixer.mixer.heads=4"),
            "backbone.block.feed_forward.hidden=128",
        ),
    ),
    "lightning_dit": Run("lightning_dit", (DATA, f"sampler={{kind: euler, steps: 25, {GUIDANCE}}}", *TRANSFORMER)),
    "eqm": Run(
        "eqm",
        (
            *(DATA, *TRANSFORMER, "backbone.unused_channels=0"),
            f"sampler={{kind: gradient_descent, steps: 50, size: 0.0085, momentum: 0.35, {GUIDANCE}}}",
        ),
    ),
    "lit": Run("dit", (*PLAIN, *under("backbone", "width=64", "depth=4", LINEAR))),
    "can": Run("can", (*PLAIN, *TRANSFORMER)),
    "diffmoe": Run("diffmoe", (*PLAIN, *TRANSFORMER, "backbone.interleaved.experts=4")),
    "dit_moe": Run("dit_moe", (*PLAIN, *TRANSFORMER, *under("backbone.block.feed_forward", "experts=4", "ratio=1"))),
    "uni_perceiver_moe": Run(
        "uni_perceiver_moe",
        (
            *(*PLAIN, *TRANSFORMER, "backbone.interleaved.experts=4"),
            *under("backbone.interleaved_mixer", "heads=4", "routed.experts=4"),
        ),
    ),
    "adm": Run(
        "adm",
        (
            *(DATA, f"sampler={{kind: ddim, steps: 25, spacing: trailing, {GUIDANCE}, clip: 1.0}}"),
            *("conditioning.class={kind: label, dropout: 0.1}", f"objective={{{DIFFUSION}}}"),
            *under("backbone", "width=32", "multipliers=[1, 2]", "blocks=1", "attention=[1]", "block.head_channels=16"),
            "conditioning.time.frequencies=32",
        ),
    ),
    "dis": Run(
        "dis",
        (
            *(*PLAIN, *under("backbone", "width=64", "half=1", "mixer.state=8")),
            "conditioning.time.frequencies=64",
        ),
    ),
    "pixart": Run(
        "pixart",
        (
            "data={kind: npz, path: CAPTIONS, shape: [1, 8, 8], "
            "fields: {caption: {shape: [4, 10]}, caption_mask: {shape: [4], dtype: bool}}}",
            *(*PLAIN[1:], *TRANSFORMER),
        ),
        captions=True,
    ),
    "rin": Run(
        "rin",
        (
            *(DATA, "objective.process.schedule=sigmoid"),
            "sampler={kind: ddim, steps: 50, clip: 1.0, guidance: {scale: 1.5, interval: [0.001, 1]}}",
            *under("backbone", "data_width=32", "width=64", "latents=10", "blocks=2", "layers=1", "patch=2"),
            *under("backbone", "heads=4", "compute_heads=4"),
        ),
    ),
    # Of the effects alone.
    "lit, a quarter of the steps": Run("dit", (*PLAIN, *under("backbone", "width=64", "depth=4", LINEAR)), 0.25),
    "lit, inherited weights": Run(
        "lit",
        (
            *PLAIN,
            *under("networks.main", "width=64", "depth=4", LINEAR, "pretrained='TEACHER'"),
            "networks.teacher=null",
        ),
        0.25,
        "dit",
    ),
    "lit, inherited and taught": Run(
        "lit",
        (
            *(DATA, DDIM, f"objective={{kind: hybrid_distillation, variance: 0, base: {{{DIFFUSION}}}}}"),
            *under("networks.main", "width=64", "depth=4", LINEAR, "pretrained='TEACHER'"),
            *under("networks.teacher", "width=64", "depth=4", "block.mixer.heads=4", "pretrained='TEACHER'"),
        ),
        0.25,
        "dit",
    ),
    "dit, the weights of can": Run("dit", (*PLAIN, *TRANSFORMER, "backbone.width=132")),
    "token choice": Run(
        "diffmoe",
        (
            *(*PLAIN, *TRANSFORMER),
            EXPERTS % ("mixture_of_experts", "per_token: 1, activation: gelu, ratio: 4, shared: 0, balance: 0.01"),
        ),
    ),
    "expert choice": Run("diffmoe", (*PLAIN, *TRANSFORMER, EXPERTS % ("expert_choice", "capacity: 1, ratio: 4"))),
}
NETWORKS = tuple(RUNS)[: tuple(RUNS).index("rin") + 1]


@dataclass(frozen=True)
class Folder:
    """Where the runs of one seed are."""

    out: Path
    seed: int
    steps: int = STEPS
    networks: tuple[str, ...] = NETWORKS

    def project(self, name: str) -> Path:
        return (self.out / f"seed{self.seed}" / name.replace(", ", "_").replace(" ", "_")).resolve()

    def trained(self, name: str) -> Training:
        run = RUNS[name]
        teacher = None if run.teacher is None else self.trained(run.teacher).weights
        return trained(run.spec, self.project(name), overrides=self.overrides(name, teacher), seed=self.seed)

    def overrides(self, name: str, teacher: Path | None = None) -> list[str]:
        file = (self.out / "captions.npz").resolve()
        if RUNS[name].captions and not file.exists():
            write_captions(file)
        texts = (*RUNS[name].overrides, train(int(self.steps * RUNS[name].share)))
        return [text.replace("CAPTIONS", str(file)).replace("TEACHER", str(teacher)) for text in texts]

    def judged(self, name: str) -> Figures:
        """Figures of samples from the engine, given captions where these are the condition; kept in the folder."""
        run, weights, kept = RUNS[name], self.trained(name).weights, self.project(name) / "figures.json"
        if not kept.exists():
            told = requested if run.captions else None
            bundle, overrides = self.project(name) / "bundle", self.overrides(name, weights)
            found = figures(run.spec, weights, bundle, overrides, SAMPLES, told=told)
            kept.write_text(json.dumps(found), encoding="utf-8")
        return Figures(*json.loads(kept.read_text(encoding="utf-8")))


def captions(labels: NDArray[np.integer]) -> dict[str, NDArray]:
    """Labels as captions of one to four words, each of which stands for the digit: features f32[N, 4, 10] and masks."""
    lengths = labels % 4 + 1
    mask = np.arange(4) < lengths[:, None]
    return {"caption": np.eye(10, dtype=np.float32)[labels][:, None] * mask[..., None], "caption_mask": mask}


def requested(labels: NDArray[np.integer]) -> dict[str, Any]:
    """The same, as conditions of a request."""
    told = captions(labels)
    return {"caption": {"value": told["caption"], "mask": told["caption_mask"]}}


def write_captions(file: Path) -> None:
    """The digits that are trained on, with captions."""
    x, labels = images(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, x=x, **captions(labels))
