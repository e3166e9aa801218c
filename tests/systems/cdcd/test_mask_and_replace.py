"""The diffusion that masks and replaces tokens: the authors' probabilities, and the loss written out with matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from parity_data import load
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, Named
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.cdcd.discrete import Discrete
from latentc.systems.cdcd.mask_and_replace_parts import MaskAndReplace

PROCESS = MaskAndReplace(32, 10, (0.99999, 0.000009), (0.000009, 0.99999))
CDCD = SYSTEMS["cdcd"]


def posterior(b: Builder, logits: Var, tokens: Var, t: Var) -> Var:
    return PROCESS.posterior(b, PROCESS.prediction(b, logits), tokens, t)


def marginal(b: Builder, tokens: Var, t: Var) -> Var:
    return PROCESS.marginal(b, PROCESS.log_one_hot(b, tokens), t)


@pytest.mark.parametrize(("name", "made"), [("cdcd.q_pred", marginal), ("cdcd.q_posterior", posterior)])
def test_official_probabilities(name: str, made: Callable[..., Var]) -> None:
    """Log-probabilities of the steps are the authors'."""
    numbers = load(name)
    mb, tokens = ModuleBuilder(), i64(B, Named(16, "N"))
    b = mb.function("made")
    given = {"logits": f32(B, Named(16, "N"), 32)} if "logits" in numbers.inputs else {}
    inputs = [b.input(word, type_) for word, type_ in {**given, "tokens": tokens, "t": i64(B)}.items()]
    b.output(made(b, *inputs))
    mb.entries["made"] = b.finish()
    values = dict(numbers.inputs)
    if given:
        values["logits"] = values["logits"].transpose(0, 2, 1)
    (found,) = Interpreter(mb.finish(), {}).run("made", *values.values())
    wanted = numbers.outputs["out"].transpose(0, 2, 1)
    # Logarithms of what is impossible differ by which small number stands for 0.
    assert np.allclose(np.maximum(found, -60), np.maximum(wanted, -60), atol=1e-4)


@pytest.mark.parametrize("mode", ["step", "sample"])
def test_the_loss(mode: str) -> None:
    """The bound, the auxiliary term and the contrastive one, of a sample at the first step and one within."""
    contrast = f"{{weight: 0.1, negatives: 2, chunks: 4, mode: {mode}}}"
    sizes = [*CDCD.sizes, f"objective.contrasts=[{contrast}]", "objective.mask_weights=[1.0, 0.5]"]
    sizes.append("objective.importance=false")
    spec = load_spec(CDCD.spec, CDCD.variant, sizes)
    lowered, rng = lower(spec), np.random.default_rng(0)
    weights = random_weights(network_params(lowered, lowered.networks["main"]), rng, 0.1)
    objective = spec.objective
    process: MaskAndReplace = objective.diffusion(17)  # type: ignore[union-attr]
    steps = process.steps
    x = rng.integers(0, 17, (2, 64))
    given = {"tokens": x, "y": np.array([3, 4]), "t": np.array([0, steps // 2]), "u": rng.random((2, 64, 18))}
    given["order_0"] = np.stack([[rng.permutation(4) for _ in range(2)] for _ in range(2)])
    inputs = lowered.module.functions[lowered.module.entries["loss.terms"]].inputs
    interpreter = Interpreter(lowered.module, {f"main.{path}": a for path, a in weights.items()})
    net = Interpreter(lowered.module, weights)
    found, bound = interpreter.run("loss.terms", *(given[v.name] for v in inputs))

    def to(kept: float, masked: float) -> np.ndarray:
        """Q[i, j]: probability that j becomes i."""
        matrix = np.full((18, 18), (1 - kept - masked) / 17) + kept * np.eye(18)
        matrix[17], matrix[:, 17] = masked, 0.0
        matrix[17, 17] = 1.0
        return matrix

    kept = np.append(1.0, np.linspace(*process.kept, steps))
    masked = np.append(0.0, np.linspace(*process.masked, steps))

    def written_out(i: int, t: int) -> tuple[float, float]:
        """The loss and the bound of one sample, in nats per token."""
        before, after = to(kept[t], masked[t]), to(kept[t + 1], masked[t + 1])
        step = to(kept[t + 1] / kept[t], 1 - (1 - masked[t + 1]) / (1 - masked[t]))
        p_t = after[:, x[i]].T  # [64, 18]
        gumbel = -np.log(-np.log(given["u"][i] + 1e-30) + 1e-30)
        x_t = (np.log(np.maximum(p_t, 1e-30)) + gumbel).argmax(axis=1)
        forward = net.run("main.forward", x_t[None], np.array([float(t)]), given["y"][i : i + 1])[0][0]
        p_0 = np.exp(forward - forward.max(axis=1, keepdims=True))
        p_0 /= p_0.sum(axis=1, keepdims=True)
        p_0 = np.append(p_0, np.zeros((64, 1)), axis=1)

        def reverse(p: np.ndarray) -> np.ndarray:
            """p(x_{t-1} | x_t) [64, 18] with p [64, 18] for x_0, which is none of the masks."""
            return ((p[:, :17] / after[x_t][:, :17]) @ before[:, :17].T) * step[x_t]

        model = reverse(p_0)
        weight = np.where(x_t == 17, 1.0, 0.5)

        def distance(other: np.ndarray, how: str) -> float:
            hot = np.eye(18)[other]
            if t == 0:
                return float(-(hot * np.log(np.maximum(model, 1e-300))).sum())
            p, q = (reverse(hot), model) if how == "step" else (hot[:, :17], p_0[:, :17])
            with np.errstate(divide="ignore", invalid="ignore"):
                kl = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
            return float((kl.sum(axis=1) * weight).sum())

        own, part = distance(x[i], "step"), t / steps
        total = own + objective.auxiliary * (2 - part) * distance(x[i], "sample")  # type: ignore[union-attr]
        for k in range(2):
            shuffled = x[i].reshape(4, 16)[given["order_0"][i, k]].ravel()
            total -= 0.1 / 2 * (1 + part) * distance(shuffled, mode)
        return steps * total / 64, steps * own / 64

    wanted, wanted_bound = zip(*(written_out(i, int(t)) for i, t in enumerate(given["t"])), strict=True)
    assert np.allclose(bound, wanted_bound, rtol=1e-4)
    assert np.allclose(found, wanted, rtol=1e-4)


def test_fewer_steps() -> None:
    """The posterior after skipped steps reaches as many further back; the last is of the first step."""
    told = Discrete(kind="discrete", steps=4).times(10)
    assert told == [(9, 7), (6, 4), (3, 1), (0, 0)]
    assert Discrete(kind="discrete", steps=10).times(10) == [(t, t) for t in range(9, -1, -1)]
