"""What a denoiser carries from evaluation to evaluation: RIN's latents, in samplers and in losses."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

RIN = SYSTEMS["rin"]


def lowered_of(*more: str):  # type: ignore[no-untyped-def]
    return lower(load_spec(RIN.spec, RIN.variant, [*RIN.sizes, *more]))


@pytest.mark.parametrize("interval", ["[0, 1]", "[0.001, 1]", "[0, 0.5]"])
@pytest.mark.parametrize("kind", ["ddim", "heun"])
def test_each_branch_of_guidance_has_a_memory(kind: str, interval: str) -> None:
    """A sampler written out: the latents of both branches, which part where guidance begins and end where it ends."""
    guidance = f"{{scale: 2.0, interval: {interval}}}"
    sampler = f"sampler={{kind: {kind}, steps: 4, guidance: {guidance}}}"
    lowered = lowered_of(sampler, "objective.process={kind: vp, time_scale: 1.0}")
    weights, rng = weights_of(lowered, 0.1), np.random.default_rng(1)
    run = Interpreter(lowered.module, weights)
    x, y = rng.standard_normal((2, 1, 8, 8)), np.eye(10)[[3, 5]]
    entry = lowered.programs[0].entry
    names = [v.name for v in lowered.module.entry(entry).inputs]
    (out,) = run.run(entry, *({"x": x, "y": y, "scale": np.full(2, 2.0)}[name] for name in names))

    spec = load_spec(RIN.spec, RIN.variant, [*RIN.sizes, sampler, "objective.process={kind: vp, time_scale: 1.0}"])
    table = spec.sampler.table(spec.objective.parameterization())  # type: ignore[union-attr]
    low, high = spec.sampler.guidance.interval  # type: ignore[union-attr]
    net = Interpreter(lowered.module, {k.removeprefix("main."): v for k, v in weights.items()})
    memory = {"c": np.zeros((2, 6, 16)), "u": np.zeros((2, 6, 16))}
    from latentc.components.samplers import table as tables

    def evaluate(state: np.ndarray, t: float) -> np.ndarray:
        progress = float(spec.objective.process.progress(t))  # type: ignore[union-attr]
        guided = low <= progress <= high
        times = np.full(2, t)
        c, memory["c"] = net.run("main.forward", state, times, y, memory["c"])
        if not guided:
            memory["u"] = memory["c"]
            return c
        u, memory["u"] = net.run("main.forward", state, times, 0 * y, memory["u"])
        return u + 2.0 * (c - u)

    wanted = tables.run(table, evaluate, x)
    assert np.allclose(out, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


def test_the_loss_remembers_for_some_samples() -> None:
    """A sample's loss is that with the latents of a first evaluation, or with none."""
    lowered = lowered_of("objective.self_conditioning=0.75")
    (update,) = lowered.updates
    assert "remember" in [draw.name for draw in update.draws]
    weights, rng = weights_of(lowered, 0.1), np.random.default_rng(2)
    given = {"x": rng.standard_normal((2, 1, 8, 8)), "y": np.array([1, 2]), "u": np.array([0.4, 0.6])}
    given |= {"noise": rng.standard_normal((2, 1, 8, 8)), "drop": np.ones(2), "remember": np.array([0.2, 0.3])}
    names = [*update.batch, *(draw.name for draw in update.draws)]
    terms = lowered.module.entries["loss.terms"]
    order = [v.name for v in lowered.module.functions[terms].inputs]
    assert sorted(order) == sorted(names)
    (found,) = Interpreter(lowered.module, weights).run("loss.terms", *(given[name] for name in order))
    net = Interpreter(lowered.module, {k.removeprefix("main."): v for k, v in weights.items()})
    process = load_spec(RIN.spec, RIN.variant, [*RIN.sizes]).objective.process  # type: ignore[union-attr]
    at, y = process.point(given["u"]), np.eye(10)[given["y"]]
    x_t = at.alpha[:, None, None, None] * given["x"] + at.sigma[:, None, None, None] * given["noise"]
    t, none = process.point(given["u"]).time, np.zeros((2, 6, 16))
    _, latents = net.run("main.forward", x_t, t, y, none)
    latents[0] = 0  # 0.2 is not above 1 - 0.75
    prediction, _ = net.run("main.forward", x_t, t, y, latents)
    assert np.allclose(found, np.square(prediction - given["noise"]).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_other_networks_remember_nothing() -> None:
    with pytest.raises(DiagnosticError, match="has no memory between evaluations"):
        load_spec("dit", overrides=["objective.self_conditioning=0.5"])


def test_conditions_that_no_latent_sees_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="no latent sees the conditions"):
        load_spec("rin", None, [*RIN.sizes, "backbone.concatenate=false"])
    lower(load_spec("rin", None, [*RIN.sizes, "backbone.concatenate=false", "backbone.attend=true"]))


@pytest.mark.parametrize(
    "guidance",
    ["[{without: [text]}, {without: [coherence]}]", "[{without: [text]}, {kind: memory, absent: [coherence]}]"],
)
def test_branches_that_leave_out_different_conditions_are_refused(guidance: str) -> None:
    sizes = (*SYSTEMS["cad"].sizes, "conditioning.text.dropout=0.1", f"sampler.guidance={guidance}")
    with pytest.raises(DiagnosticError, match="two branches"):
        load_spec("cad", None, [*sizes])


def test_registers_count_among_the_latents() -> None:
    """Of 8 latents the time, 2 registers and 3 words leave 2 that are weights, and of 6 none."""
    sizes = (*SYSTEMS["cad"].sizes, "data.fields.text.shape=[3, 10]", "data.fields.text_mask.shape=[3]")
    sizes += (
        "conditioning.coherence=null",
        "sampler.guidance=null",
        "backbone.concatenate=true",
        "backbone.registers=2",
    )
    low = lower(load_spec("cad", None, [*sizes, "backbone.latents=8"]))
    assert network_params(low, low.networks["main"])["latents"].type.shape[0] == 2
    with pytest.raises(DiagnosticError, match="the time and the conditions take 6 latents"):
        load_spec("cad", None, [*sizes, "backbone.latents=6"])
