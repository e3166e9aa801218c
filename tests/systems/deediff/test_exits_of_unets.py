"""Early exits of U-Nets, and decisions at run time under guidance, against plain references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify
from latentc.weights import materialise, read_safetensors
from latentc_runtime import exits

SIGMAS = (80.0, 4.0, 0.5)
TINY = (
    "networks.main.width=8",
    "networks.exits={kind: early_exits, after: [1, 4, 8]}",
    "objective.further=[early_exit]",
    f"sampler={{kind: euler, timesteps: {list(SIGMAS)}}}",
    "sampler.guidance={scale: 3, interval: [0.2, 1]}",
    "programs=[{kind: exit, after: [9, 1, 4], dynamic: true}]",
)
PLAN, COUNT, NULL = [4, 1, 2], 3, 10  # the exits of this plan: block 9 is the third, the last block the fourth
ONE_HOT = np.eye(11)[:, :10]  # without a class: zeros
CLASSES, SEEDS = np.array([3, 1, 4]), np.arange(COUNT)
PLANNED = ("programs.0.after=[10, 1, 4]",)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return tiny_bundle("digits_edm", tmp_path_factory.mktemp("exits") / "unet", (*TINY, *PLANNED), std=0.2)


class Reference:
    """Euler's method on the probability flow of EDM in float64, with the U-Net's exits written out."""

    def __init__(self, bundle: Path) -> None:
        self.low = lower(load_spec("digits_edm", overrides=[*TINY, *PLANNED]))
        self.weights: dict[str, np.ndarray] = {}
        for name in ("main", "exits"):
            file = bundle.with_suffix(f".{name}.safetensors")
            arrays = {f"{name}.{key}": np.asarray(materialise(v)) for key, v in read_safetensors(file).items()}
            self.weights |= {key: value.astype(np.float64) for key, value in arrays.items()}
        self.oracle = Interpreter(self.low.module, self.weights)

    def evaluated(self, x: np.ndarray, sigma: float, y: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The predictions of every exit and of the whole, and the uncertainties, 0 of the whole."""
        time = np.full(len(x), np.log(sigma) / 4)
        main, head = self.low.networks["main"], self.low.networks["exits"]
        scaled = x / np.sqrt(sigma**2 + 0.7**2)
        whole, *behind = self.oracle.run(
            main.methods["train_forward"].function, scaled, time, ONE_HOT[y], prefix="main"
        )
        made = self.oracle.run(head.methods["forward"].function, time, *behind, prefix="exits")
        count = len(made) // 2
        return [*made[:count], whole], [*made[count:], np.zeros(len(x))]

    def sample(self, x: np.ndarray, decide: Any) -> np.ndarray:
        """`decide(step, uncertainties f64[exits, branches, B])` -> the number of the exit per branch and sample."""
        x = SIGMAS[0] * x
        for i, (sigma, after) in enumerate(zip(SIGMAS, (*SIGMAS[1:], 0.0), strict=True)):
            guided = i > 0  # progress 0, 0.33, 0.67
            labels = [CLASSES, np.full(COUNT, NULL)] if guided else [CLASSES]
            pairs = [self.evaluated(x, sigma, y) for y in labels]
            chosen = decide(i, np.stack([np.stack(doubts) for _, doubts in pairs], 1))
            taken = [
                np.stack([predictions[e - 1][j] for j, e in enumerate(own)])
                for (predictions, _), own in zip(pairs, chosen, strict=True)
            ]
            output = taken[1] + 3.0 * (taken[0] - taken[1]) if guided else taken[0]
            total = np.sqrt(sigma**2 + 0.7**2)
            data = 0.7**2 / total**2 * x + sigma * 0.7 / total * output
            x = x + (x - data) / sigma * (after - sigma)
        return x


def test_a_plan_of_a_guided_unet_agrees_with_decisions_of_the_host(bundle: Path) -> None:
    report = verify(bundle)
    assert report.ok, report.text()
    pipe = latentc_runtime.load(bundle, "cpu")
    ours = pipe.sample(CLASSES, SEEDS)
    host = exits.sample(pipe, CLASSES, SEEDS, plan=PLAN)
    scale = abs(ours).max()
    np.testing.assert_allclose(host.samples, ours, rtol=0, atol=2e-5 * scale)
    assert pipe.program("exit_step").branches == ((0,), (0, 1), (0, 1))
    x = pipe.noise(SEEDS, COUNT)["x"].astype(np.float64)
    reference = Reference(bundle).sample(x, lambda i, doubts: [[PLAN[i]] * COUNT] * doubts.shape[1])
    np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-5 * scale)
    weaker = exits.sample(pipe, CLASSES, SEEDS, plan=PLAN, guidance=1.0)
    assert abs(weaker.samples - ours).max() > 1e-2 * scale
    np.testing.assert_allclose(
        weaker.samples, pipe.sample(CLASSES, SEEDS, guidance=1.0), rtol=0, atol=2e-5 * abs(weaker.samples).max()
    )


@pytest.mark.parametrize("apart", [False, True])
def test_branches_leave_together_or_apart(bundle: Path, apart: bool) -> None:
    pipe, reference = latentc_runtime.load(bundle, "cpu"), Reference(bundle)
    x = pipe.noise(SEEDS, COUNT)["x"].astype(np.float64)
    seen: list[np.ndarray] = []

    def first(limit: float) -> Any:
        def decide(i: int, doubts: np.ndarray) -> np.ndarray:
            seen.append(doubts)
            certain = doubts <= limit
            return 1 + np.argmax(certain if apart else np.broadcast_to(certain.all(1, keepdims=True), doubts.shape), 0)

        return decide

    reference.sample(x, first(-1.0))
    limit = float(np.median(np.concatenate([doubts[0].ravel() for doubts in seen[1:]])))
    seen.clear()
    wanted = reference.sample(x, first(limit))
    numbers = [first(limit)(i, doubts) for i, doubts in enumerate(list(seen))]
    found = exits.sample(pipe, CLASSES, SEEDS, threshold=limit, apart=apart)
    np.testing.assert_allclose(found.samples, wanted, rtol=0, atol=2e-5 * abs(wanted).max())
    if apart:
        assert found.exits[0, :, 1].tolist() == [0] * COUNT and np.any(found.exits[1:, :, 0] != found.exits[1:, :, 1])
        assert [own.T.tolist() for own in numbers] == [found.exits[0, :, :1].tolist(), *found.exits[1:].tolist()]
    else:
        assert [own[0].tolist() for own in numbers] == found.exits.tolist()
    assert len(np.unique(found.exits)) > 1 + apart


def test_heads_of_feature_maps(bundle: Path) -> None:
    """The exits of a U-Net in PyTorch: a pixel shuffle, the first features, a copy of the last layers."""
    torch = pytest.importorskip("torch")
    reference = Reference(bundle)
    w = {key.removeprefix("exits."): torch.from_numpy(v) for key, v in reference.weights.items() if "exits." in key}
    exit_network, rng = reference.low.networks["exits"], np.random.default_rng(0)
    fn = reference.low.module.functions[exit_network.methods["forward"].function]
    given = [rng.standard_normal([2, *(int(d) for d in v.type.shape[1:])]) for v in fn.inputs[1:]]
    assert [a.shape[1:] for a in given] == [(8, 8, 8), (16, 4, 4), (16, 8, 8), (8, 8, 8)]  # the last: first features
    time = np.array([0.3, -0.7])
    made = reference.oracle.run(fn.name, time, *given, prefix="exits")
    first, middle, up, stem = map(torch.from_numpy, given)

    def layer(name: str, x: Any) -> Any:
        return torch.nn.functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def head(i: int, x: Any) -> Any:
        norm, out = f"heads.{i}.out_norm", f"heads.{i}.out_conv"
        x = torch.nn.functional.group_norm(x, 2, w[f"{norm}.weight"], w[f"{norm}.bias"], eps=1e-5)
        x = torch.nn.functional.silu(x)
        return torch.nn.functional.conv2d(x, w[f"{out}.weight"], w[f"{out}.bias"], padding=1)

    maps = [
        first,
        torch.pixel_shuffle(layer("restored_1.features", middle), 2) + layer("restored_1.stem", stem),
        layer("restored_2.features", up) + layer("restored_2.stem", stem),
    ]
    angles = torch.from_numpy(time)[:, None] * 10_000.0 ** -(torch.arange(16) / 15.0)
    features = torch.cat([angles.sin(), angles.cos()], 1)
    for i, x in enumerate(maps):
        np.testing.assert_allclose(made[i], head(i, x).numpy(), rtol=0, atol=1e-12 * abs(made[i]).max())
        tokens = (first, middle, up)[i].flatten(2).transpose(1, 2)
        logits = tokens @ w[f"estimators.{i}.tokens.weight"].T + w[f"estimators.{i}.tokens.bias"]
        doubt = torch.sigmoid(logits + (features @ w[f"estimators.{i}.time.weight"].T)[:, None]).mean((1, 2))
        np.testing.assert_allclose(made[3 + i], doubt.numpy(), rtol=1e-6)


def refusals() -> Sequence[Any]:
    return [
        (["networks.exits.after=[3, 10]"], "it has 10 blocks, .* from 1 to 9; blocks: 1 `enc.0.0`, 2 `down.0`"),
    ]


@pytest.mark.parametrize(("overrides", "says"), refusals())
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_edm", overrides=[*TINY, *overrides])


def test_two_terms_of_guidance_combine_three_branches(tmp_path: Path) -> None:
    """InstructPix2Pix's guidance of a transformer: by a class, and by a small picture, each with its own scale."""
    pytest.importorskip("onnxruntime")
    tiny = ("networks.main.width=16", "networks.main.depth=3", "networks.main.block.mixer.heads=2", "sampler.steps=3")
    terms = "[{without: [class], scale: 2}, {without: [low], absent: [class], scale: 3, interval: [0.5, 1]}]"
    guided = ("conditioning.low={kind: low_resolution, factor: 4, dropout: 0.1}", f"sampler.guidance={terms}")
    made = tiny_bundle("digits_deediff", tmp_path / "three", (*tiny, *guided, "programs.0.after=[2, 1, 3]"))
    pipe = latentc_runtime.load(made, "cpu")
    assert pipe.program("exit_step").branches == ((0, 1), (0, 1), (0, 1, 2))
    asked: dict[str, Any] = {"conditions": {"low": np.random.default_rng(0).standard_normal((COUNT, 1, 2, 2))}}
    for settings in ({}, {"guidance": 1.5, "guidance_2": 0.5}):
        ours = pipe.sample(CLASSES, SEEDS, settings=settings, **asked)
        host = exits.sample(pipe, CLASSES, SEEDS, plan=[2, 1, 3], settings=settings, **asked)
        np.testing.assert_allclose(host.samples, ours, rtol=0, atol=1e-5 * abs(ours).max())
