"""DDT beyond what its cases of official numbers say: reuse of the condition, alignment, positions, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_data import error, load
from random_weights import random_weights

from latentc.checkpoint import network_params, network_weights
from latentc.components.guidance.guidance import ScheduledGuidance
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, materialise, write_safetensors

TINY = ["backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=3"]
OFFICIAL = ["data.shape=[4, 8, 8]", "data.classes=10", "data.fields=null", "objective.further=[]", "backbone.width=64"]
OFFICIAL += ["backbone.depth=2", "backbone.decoder_depth=2", "backbone.block.mixer.heads=4", "backbone.alignment=null"]


def test_a_condition_reused_over_three_steps_is_that_of_the_authors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sampler evaluates the null class at every step, also where it does not guide: at pure noise."""
    usual = ScheduledGuidance.weights

    def weights(self: ScheduledGuidance, progress: Sequence[float]) -> Any:
        return np.where(np.asarray(progress) == 0, 1e-12, usual(self, progress))  # not 0, so both are evaluated

    monkeypatch.setattr(ScheduledGuidance, "weights", weights)
    numbers = load("ddt.sampler_euler8_reuse3")
    sampler = "sampler={kind: euler, steps: 8, guidance: {scale: 1.7}}"
    found = []
    for every in (3, 1):
        reuse = f"optimize.cache={{parts: [encoder], every: {every}}}"
        spec = load_spec("ddt", None, [*OFFICIAL, sampler, reuse])
        low = lower(spec)
        file = tmp_path / "main.safetensors"
        write_safetensors(file, {name: Array(a) for name, a in numbers.weights.items()})
        own = network_weights(spec, low, [f"main={file}"], "official", None, ["main"])["main"]
        whole = {f"main.{name}": materialise(a) for name, a in own.items()}
        (program,) = low.programs
        given = {**numbers.inputs, "x": numbers.inputs["noise"], "scale": np.full(2, 1.7)}
        names = [value.name for value in low.module.entry(program.entry).inputs]
        out = Interpreter(low.module, whole, "f64").run(program.entry, *(given[name] for name in names))[0]
        found.append(error(out, numbers.outputs["out"]))
    assert found[0] < 1e-6 < 1e-2 < found[1]


def test_a_step_that_reuses_the_condition_reads_no_weight_of_the_encoder() -> None:
    low = lower(load_spec("digits_ddt", None, [*TINY, "optimize.cache.every=3"]))
    methods = {name: low.module.entry(f"main.{name}") for name in ("forward", "forward_caching", "forward_cached")}
    calls = {
        name: {node.attrs["name"].split(".")[0] for node in fn.nodes if node.op == "call"}
        for name, fn in methods.items()
    }
    assert {"encoder", "blocks", "t_embedder", "y_embedder", "final_layer"} >= calls["forward"] >= {"encoder", "blocks"}
    assert calls["forward_caching"] == calls["forward"]
    assert calls["forward_cached"] == {"blocks", "final_layer"}
    assert {p.name for p in methods["forward_cached"].params} == {"x_embedder.weight", "x_embedder.bias"} | {
        p.name for p in methods["forward"].params if p.name.startswith("freqs")
    }


def test_features_are_projections_of_the_encoders_tokens() -> None:
    """Of its first block of two: what the second adds does not change them, and the prediction is that of `forward`."""
    aligned = ["backbone.alignment={blocks: 1, hidden: 8, features: [4, 6]}", "data.fields={}"]
    spec = load_spec("digits_ddt", None, [*TINY, *aligned, "optimize.cache=null"])
    low = lower(spec)
    train, forward = (low.module.entry(f"main.{name}") for name in ("train_forward", "forward"))
    params = network_params(low, low.networks["main"])
    rng = np.random.default_rng(0)
    weights = random_weights(params, rng, 0.2)
    x, t, y = rng.standard_normal((2, 1, 8, 8)), np.array([0.2, 0.7]), np.array([1, 2])
    out, first, second = Interpreter(low.module, weights, "f64").run(train.name, x, t, y)
    assert first.shape == (2, 4, 4) and second.shape == (2, 4, 6)
    alone = Interpreter(low.module, weights, "f64").run(forward.name, x, t, y)[0]
    assert np.array_equal(alone, out)
    other = {n: w * (3 if n.startswith("encoder.blocks.1.") else 1) for n, w in weights.items()}
    again = Interpreter(low.module, other, "f64").run(train.name, x, t, y)
    assert np.array_equal(again[1], first) and not np.allclose(again[0], out)


def test_positions_have_a_fixed_extent_and_turn_pairs_by_column_and_row() -> None:
    cos, sin = (
        INITS["rope_2d_spread"](None, (9, 4), head_dim=8, grid=3, base=100.0, span=16.0, part=part)  # type: ignore[arg-type]
        for part in ("cos", "sin")
    )
    for row, column in itertools.product(range(3), range(3)):
        angles = [8.0 * column, 8.0 * row, 8.0 * column / 10, 8.0 * row / 10]
        assert np.allclose(cos[3 * row + column], np.cos(angles)) and np.allclose(sin[3 * row + column], np.sin(angles))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.block.condition={kind: adaln_zero}"], "have a condition for each token, not `adaln_zero`"),
        (["backbone.patch=3"], "patches of 3 do not tile a side of 8"),
        (["backbone.width=12"], "a head of 6 must be divisible by 4"),
        (["backbone.alignment={blocks: 3, hidden: 8, features: [4]}"], "follows block 3, but there are 2"),
        (["optimize.cache={}"], "there is no `parts` without `blocks`"),
        (["optimize.cache={parts: [encoder], among: blocks}"], "there is `among` without `blocks`"),
        (["optimize.cache={parts: [mixer]}"], "network `main` has no part 'mixer'; it has"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec("digits_ddt", None, [*TINY, *overrides]))
    assert any(said in one.message for one in caught.value.diagnostics), caught.value


def test_other_networks_refuse_what_is_for_each_token_or_for_patches_alone() -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_dit", None, ["backbone.block.condition={kind: token_adaln}"])
    assert "are conditioned on a vector, but `token_adaln` takes a vector for each token" in str(caught.value)
