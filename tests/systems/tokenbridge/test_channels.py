"""Channels drawn one after the other: the authors' levels, probabilities and tokens, and what is refused."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emitted import emitted
from parity_data import load

from latentc.checkpoint import arrays, network_weights
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.tokenbridge.levels import level_values, nearest_level, value_of
from latentc.weights import Array, write_safetensors

sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
from tokenbridge import SIZES

ORDER = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)


def test_levels_are_the_authors() -> None:
    numbers = load("tokenbridge.loss")
    values = level_values(8, 5.0, 3.0)
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 16, 16))
    level = nearest_level(b, x, values)
    b.output(level, value_of(b, level, values))
    mb.entries["f"] = b.finish()
    x = numbers.inputs["imgs"].reshape(2, 16, 16).transpose(0, 2, 1)
    level, value = Interpreter(mb.finish()).run("f", x)
    assert np.array_equal(level, numbers.outputs["out.quantized.0"])
    np.testing.assert_allclose(value, numbers.outputs["out.quantized.1"], atol=2e-6)


def test_tokens_and_probabilities_are_the_authors(tmp_path: Path) -> None:
    """A run that follows the authors' draws has their probabilities; the program, given numbers that fall on these
    draws, has their tokens."""
    numbers = load("tokenbridge.sampler")
    write_safetensors(tmp_path / "w.safetensors", {name: Array(a) for name, a in numbers.weights.items()})
    spec = load_spec("tokenbridge", None, list(SIZES))
    lowered = lower(spec)
    files = [f"{name}={tmp_path / 'w.safetensors'}" for name in ("main", "head")]
    weights = network_weights(spec, lowered, files, "official")
    whole = {f"{network}.{name}": a for network, own in weights.items() for name, a in arrays(own).items()}
    main, head = (Interpreter(lowered.module, dict(arrays(weights[network]))) for network in ("main", "head"))
    order, draws = np.stack(numbers.noise[:2]), iter(numbers.noise[2:])
    y, values = numbers.inputs["labels"], np.array(level_values(8, 5.0, 3.0))
    ranks, left = np.argsort(order, axis=1), spec.sampler.sets().hidden_counts(16)
    tokens, u, kept = np.zeros((2, 16, 16)), np.zeros((2, 16, 16), np.float32), []
    for before, after in itertools.pairwise(left):
        hidden = (ranks < before).astype(np.float64)
        z, null = (
            main.run(lowered.networks["main"].methods["forward"].function, tokens, hidden, label)[0]
            for label in (y, np.full(2, 6))
        )
        z = null + (1 + 1.5 * (16 - max(after, 1)) / 16) * (z - null)
        rows = [(i, place) for i in range(2) for place in range(16) if after <= ranks[i, place] < before]
        features = np.stack([z[row] for row in rows])
        token, caches = None, []
        for k in range(16):
            given = (features,) if token is None else (features, token, *caches)
            logits, *caches = head.run(lowered.networks["head"].methods[f"channel_{k}"].function, *given)
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            kept.append(p)
            token = next(draws).reshape(-1)
            for j, (i, place) in enumerate(rows):
                u[i, ranks[i, place], k] = p[j, : token[j]].sum() + p[j, token[j]] / 2
                tokens[i, place, ORDER[k]] = values[token[j]]
    assert next(draws, None) is None
    every = np.concatenate(kept)
    np.testing.assert_allclose(every[:: max(1, len(every) // 64)], numbers.outputs["out.probs"], atol=1e-5)

    wanted = numbers.outputs["out.out"]
    np.testing.assert_allclose(tokens.transpose(0, 2, 1).reshape(2, 16, 4, 4), wanted, atol=2e-6)
    (program,) = lowered.programs
    named = {"y": y, "scale": np.full(2, 2.5, np.float32), "order": order, "u": u}
    given = [named[value.name] for value in lowered.module.entry(program.entry).inputs]
    (out,) = Interpreter(lowered.module, whole).run(program.entry, *given)
    np.testing.assert_allclose(out, wanted, atol=2e-6)
    with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
        networks = {name: project.model.NETWORKS[name]().eval() for name in weights}
        for name, network in networks.items():
            own = {key: torch.from_numpy(np.array(a)) for key, a in arrays(weights[name]).items()}
            network.load_state_dict(own, strict=False)
        made = project.sampler.PROGRAMS["sample"][program.steps]
        found = made.sample(*networks.values(), *(torch.from_numpy(a) for a in given)).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["networks.head.order=[0, 1, 2]"], "is not one of the 16 channels of a token"),
        (
            ["networks.head.block.condition={kind: adaln_zero}"],
            "a vector for each token, but `adaln_zero` takes a vector",
        ),
        (["networks.head.block.mixer.causal=false"], "so its mixer must be causal"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("tokenbridge", None, ["data.first_stage=null", *SIZES, *overrides])


def test_other_networks_refuse_a_condition_per_step() -> None:
    with pytest.raises(DiagnosticError, match="on a vector, but `stepwise_adaln` takes a vector for each token"):
        load_spec("digits_dit", None, ["backbone.block.condition={kind: stepwise_adaln}"])
