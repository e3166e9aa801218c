"""Blur and self-attention guidance and condition annealing: lowered samplers against the papers' equations in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle

from latentc.checkpoint import network_params
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OPS
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify

RNG = np.random.default_rng(7)
COUNT, CLASSES = 3, 10
Y = np.array([0, 7, 3])
TINY = ("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=5")
PIXELS = (
    *("backbone.width=16", "backbone.multipliers=[1, 2]", "backbone.blocks=1", "backbone.attention=[1]"),
    *("backbone.block.groups=4", "backbone.block.head_channels=8", "sampler={kind: ddim, steps: 3}"),
    *("data={kind: digits}", "conditioning.time.frequencies=16"),
)


class Sampled:
    """A lowered sampler with random weights and inputs, and its network as a function."""

    def __init__(self, spec: Any) -> None:
        self.lowered, self.sampler, self.target = lower(spec), spec.sampler, parameterization_of(spec.objective)
        self.weights = {
            path: 0.3 * RNG.standard_normal(tuple(int(d) for d in param.type.shape))
            for path, param in network_params(self.lowered, self.lowered.networks["main"]).items()
        }
        self.program = self.lowered.programs[0]
        values = self.lowered.module.entry(self.program.entry).inputs
        sizes = {"B": COUNT}
        self.given = {
            v.name: RNG.standard_normal(
                [sizes.get(str(d), d) if not isinstance(d, int) else int(d) for d in v.type.shape]
            )
            for v in values
        }
        self.given |= {name: np.array([1.5, 2.0, 3.0]) for name in self.given if name.endswith("scale")}
        self.given |= {"y": Y} if "y" in self.given else {}

    def ours(self) -> np.ndarray:
        named = {f"main.{name}": array for name, array in self.weights.items()}
        (out,) = Interpreter(self.lowered.module, named).run(self.program.entry, *self.given.values())
        return np.asarray(out)

    def theirs(self, predict: Callable[[np.ndarray, float, float], np.ndarray]) -> np.ndarray:
        """The table in numpy, over `predict(x, t, progress)`."""
        assert isinstance(self.sampler, ArraySampler) and self.target is not None
        table = self.sampler.table(self.target)
        progress = iter([p for part in table.parts() for p in part.progress.ravel()])
        noise = self.given.get("noise")
        return run(table, lambda x, t: predict(x, t, float(next(progress))), self.given["x"], noise)

    def network(self, x: np.ndarray, t: float, y: np.ndarray, **changed: np.ndarray) -> np.ndarray:
        machine = Interpreter(self.lowered.module, {**self.weights, **changed})
        given = {"x": x, "t": np.full(len(x), t), "y": y}
        method = self.lowered.networks["main"].methods["forward"]
        return np.asarray(machine.run(method.function, *(given[port.name] for port in method.inputs))[0])


def close(ours: np.ndarray, theirs: np.ndarray, within: float = 1e-9) -> bool:
    return bool(np.max(np.abs(ours - theirs)) <= within * np.max(np.abs(theirs)))


def blurred(x: np.ndarray, sigma: float, kernel: int) -> np.ndarray:
    """A Gaussian blur of images [B, C, H, W] with mirrored borders, tap by tap."""
    reach = kernel // 2
    taps = np.array([np.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)])
    taps = taps / taps.sum()
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    out = np.zeros_like(x)
    for i, down in enumerate(taps):
        for j, across in enumerate(taps):
            out += down * across * padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
    return out


def column(scale: np.ndarray) -> np.ndarray:
    return scale[:, None, None, None]


NULL = np.full(COUNT, CLASSES)
PREDICTIONS = {
    "noise": ("objective.predicts=noise",),
    "velocity": (),
    "flow": ("objective={kind: flow}", "sampler.kind=euler", "sampler.spacing=null"),
    "edm": (
        "objective={kind: diffusion, process: {kind: edm}, predicts: preconditioned}",
        *("sampler.kind=heun", "sampler.spacing=null"),
    ),
}


def data_and_noise(spec: Any, x: np.ndarray, out: np.ndarray, told: float) -> tuple[np.ndarray, ...]:
    """(alpha x0, sigma noise, scale of the input) at the state `x` that a prediction was made at, case by case."""
    target = parameterization_of(spec.objective)
    assert target is not None
    process = target.process
    if process.kind == "discrete":
        alpha, sigma = float(process.point(told).alpha), float(process.point(told).sigma)
        noise = out if target.predicts == "noise" else alpha * out + sigma * x
        return x - sigma * noise, sigma * noise, np.ones(1)
    if process.kind == "interpolant":
        data = told * (x + (1 - told) * out)
        return data, x - data, np.ones(1)
    sigma, half = np.exp(4 * told), process.sigma_data
    total = np.sqrt(sigma**2 + half**2)
    unscaled = x * total  # the network's input is c_in times the state
    data = half**2 / total**2 * unscaled + sigma * half / total * out
    return data, unscaled - data, 1 / total


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_blur_guidance(predicts: str) -> None:
    """p + s (p - q), q at the state whose predicted data is blurred and whose noise stays."""
    guidance = "{kind: blur, scale: 2, sigma: 0.8, kernel: 5, absent: [class]}"
    more = PREDICTIONS[predicts]
    spec = load_spec("digits_dit", None, [*TINY, *more, f"sampler.guidance={guidance}"])
    system = Sampled(spec)

    def predict(x: np.ndarray, t: float, progress: float) -> np.ndarray:
        better = system.network(x, t, NULL)
        data, noise, scale = data_and_noise(spec, x, better, t)
        worse = system.network(scale * (blurred(data, 0.8, 5) + noise), t, NULL)
        return system.network(x, t, Y) + (column(system.given["blur_scale"]) - 1) * (better - worse)

    assert close(system.ours(), system.theirs(predict))


@pytest.mark.parametrize(
    ("bound", "within"),
    [("clip: 0.3", 1e-9), ("clip: 0.3, clip_quantile: 0.9", 1e-5)],  # interpolates by float32 fractions
)
def test_blur_of_clipped_data(bound: str, within: float) -> None:
    """With `clip` the worse state has the bounded data, blurred, and the noise that the network predicts."""
    sampler = f"{{kind: ddim, steps: 4, {bound}, guidance: {{kind: blur, scale: 2, sigma: 0.8, kernel: 3}}}}"
    spec = load_spec("digits_dit", None, [*TINY, "objective.predicts=noise", f"sampler={sampler}"])
    system = Sampled(spec)
    target = parameterization_of(spec.objective)
    assert target is not None

    def predict(x: np.ndarray, t: float, progress: float) -> np.ndarray:
        better = system.network(x, t, Y)
        point = target.process.point(t)
        data = (x - point.sigma * better) / point.alpha
        if "quantile" in bound:
            level = np.maximum(np.quantile(abs(data).reshape(COUNT, -1), 0.9, axis=1), 0.3)[:, None, None, None]
            data = np.clip(data, -level, level) * 0.3 / level
        else:
            data = np.clip(data, -0.3, 0.3)
        worse = system.network(point.alpha * blurred(data, 0.8, 3) + point.sigma * better, t, Y)
        return better + (column(system.given["blur_scale"]) - 1) * (better - worse)

    assert close(system.ours(), system.theirs(predict), within)


@pytest.mark.parametrize(("block", "softness"), [("blocks.0", 0.0), (None, 0.0), (None, 0.1)])
def test_self_attention_guidance(block: str | None, softness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As blur guidance, but only where a token gets more attention than on average (algorithm 1 of the paper)."""
    place = "" if block is None else f", block: {block}"
    guidance = f"{{kind: self_attention, sigma: 0.8, kernel: 3, softness: {softness}{place}, schedule: linear}}"
    spec = load_spec("digits_dit", None, [*TINY, f"sampler.guidance={guidance}"])
    system = Sampled(spec)
    ours = system.ours()
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    plain = OPS["attention"].evaluate
    assert plain is not None

    def recorded(xs: Any, attrs: Any) -> Any:
        seen.append((xs[0], xs[1]))
        return plain(xs, attrs)

    monkeypatch.setitem(OPS, "attention", replace(OPS["attention"], evaluate=recorded))

    def predict(x: np.ndarray, t: float, progress: float) -> np.ndarray:
        seen.clear()
        better = system.network(x, t, Y)
        q, k = seen[0 if block else 1]  # the middle one of two is the second
        scores = np.exp(np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1]))
        received = (scores / scores.sum(-1, keepdims=True)).mean(1).sum(1)
        rise = np.clip((received - 1) / softness + 0.5, 0, 1) if softness else received > 1.0
        mask = np.float64(rise).reshape(COUNT, 1, 4, 4).repeat(2, 2).repeat(2, 3)
        assert 0 < mask.sum() < mask.size
        data, noise, _ = data_and_noise(spec, x, better, t)
        worse = system.network(mask * blurred(data, 0.8, 3) + (1 - mask) * data + noise, t, Y)
        gain = (column(system.given["attention_scale"]) - 1) * progress
        return better + gain * (better - worse)

    assert close(ours, system.theirs(predict))


def test_attention_of_other_networks() -> None:
    """A U-Net's attention is at a lower resolution; tokens of the time and the class of a U-ViT are left out."""
    guidance = "sampler.guidance={kind: self_attention, kernel: 3}"
    unet = lower(load_spec("adm", None, [*PIXELS, guidance]))
    uvit = ("half=1", "width=16", "block.mixer.heads=2", "patch=2")
    sizes = ["data={kind: digits}", "conditioning.time.frequencies=16", *(f"backbone.{size}" for size in uvit)]
    tokens = lower(load_spec("uvit", None, [*sizes, "sampler={kind: ddim, steps: 3}", guidance]))
    for lowered, count in ((unet, 16), (tokens, 18)):
        shown = lowered.networks["main"].methods["forward_attention"].outputs[-1]
        assert int(shown.type.shape[1]) == count  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["ddim", "heun", "ddpm"])
@pytest.mark.parametrize("mix", [0.0, 0.7])
def test_condition_annealing(sampler: str, mix: float) -> None:
    """The table of class embeddings with noisy rows, one network per sample (section 3 and appendix of CADS)."""
    annealing = f"[{{kind: annealing, noise: 0.5, start: 0.2, stop: 0.7, mix: {mix}}}]"
    more = (f"sampler.kind={sampler}", "sampler.spacing=null", f"programs={annealing}")
    system = Sampled(load_spec("digits_dit", None, [*TINY, *more]))
    table = system.weights["y_embedder.weight"]
    taken = [0, 0]
    evaluations = iter(
        [
            (p, which)
            for part in system.sampler.table(system.target).parts()
            for row in part.progress
            for which, p in enumerate(row)
        ]
    )

    def predict(x: np.ndarray, t: float, progress: float) -> np.ndarray:
        at, which = next(evaluations)
        assert at == progress
        keep = min(max((progress - 0.2) / 0.5, 0.0), 1.0)
        null, cond = system.network(x, t, NULL), []
        name = "y_embedding_noise" + ("", "_2")[which]
        for i in range(COUNT):
            row = table[Y[i]]
            if keep < 1:
                noisy = np.sqrt(keep) * row + 0.5 * np.sqrt(1 - keep) * system.given[name][taken[which]][i]
                rescaled = (noisy - noisy.mean()) / noisy.std() * row.std() + row.mean()
                row = mix * rescaled + (1 - mix) * noisy
            changed = table.copy()
            changed[Y[i]] = row
            one = slice(i, i + 1)
            cond.append(system.network(x[one], t, Y[one], **{"y_embedder.weight": changed}))
        taken[which] += keep < 1
        return null + column(system.given["scale"]) * (np.concatenate(cond) - null)

    assert close(system.ours(), system.theirs(predict))
    assert sum(taken) > 2


@pytest.mark.parametrize("form", ["loop", "host"])
def test_engines_and_emitted_sampler_agree(form: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    terms = "[{scale: 2}, {kind: self_attention, scale: 1.5, kernel: 3}, {kind: blur, scale: 1.2, kernel: 3}]"
    annealing = "[{kind: annealing, noise: 0.5, start: 0.2, stop: 0.7}]"
    more = (f"sampler.guidance={terms}", f"programs={annealing}", f"target.form={form}")
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", (*TINY, *more)))
    assert report.ok, report.text()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sampler.guidance={kind: blur, kernel: 4}"], "has no centre: it must be odd"),
        (["sampler.guidance={kind: blur, kernel: 17}"], "too wide to reflect at the border of an image of 8"),
        (["sampler.guidance={kind: self_attention, kernel: 3, absent: [style]}"], "no such condition: `style`"),
        (["programs=[{kind: annealing, start: 0.5, stop: 0.5}]"], "ends before it starts"),
        (["programs=[{kind: annealing, conditions: [style]}]"], "no such condition: `style`"),
    ],
)
def test_what_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("digits_dit", None, [*TINY, *overrides])
    assert words in str(refused.value.diagnostics[0].message)


def test_a_block_without_attention_is_refused() -> None:
    spec = load_spec("digits_dit", None, [*TINY, "sampler.guidance={kind: self_attention, kernel: 3, block: blocks.2}"])
    with pytest.raises(
        DiagnosticError, match=r"no attention in `blocks\.2`; blocks with attention: blocks\.0\.attn, blocks\.1\.attn"
    ):
        lower(spec)
