"""Guidance as a list of terms: lowered samplers against their table run in numpy over a guided prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import weights_of

from latentc.components import load
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.passes.expand_guidance import expand_guidance
from latentc.spec import load_spec
from latentc.verify.run import verify

RNG = np.random.default_rng(5)
COUNT = 3
GIVEN = {
    "y": np.array([0, 7, 3]),
    "style": RNG.standard_normal((COUNT, 5)),
    "scale": np.array([1.0, 2.5, 4.0]),
    "scale_2": np.array([3.0, 1.5, 0.5]),
}
ABSENT = {"y": np.full(COUNT, 10), "style": np.zeros((COUNT, 5))}
CONDITIONS = {"class": "y", "style": "style"}
TINY = (
    "backbone.width=16",
    "backbone.depth=1",
    "backbone.block.mixer.heads=2",
    "networks.weak={kind: like}",
    "data.fields={style: {shape: [5]}}",
    "conditioning.style={kind: vector, dropout: 0.1, null_embedding: zeros}",
    "sampler.steps=5",
)
TEXT_AND_IMAGE = "[{without: [style]}, {without: [class], absent: [style]}]"


def spec_with(guidance: str, *more: str) -> Any:
    """A digit DiT with a second network and a second condition."""
    return load_spec("digits_dit", None, [*TINY, f"sampler.guidance={guidance}", *more])


def samples(guidance: str, predict: Any, *more: str) -> tuple[np.ndarray, np.ndarray]:
    """What the lowered program returns, and what the table does with `predict(evaluate, x, t, progress)`.

    `evaluate(network, absent, x, t)` is the network's prediction with the conditions `absent` left out.
    """
    spec = spec_with(guidance, *more)
    lowered = lower(spec)
    sampler, target = spec.sampler, parameterization_of(spec.objective)
    assert isinstance(sampler, ArraySampler) and target is not None
    program = lowered.programs[0]
    weights = weights_of(lowered, 0.3, RNG)
    machine = Interpreter(lowered.module, weights)
    own = {n: {k.removeprefix(f"{n}."): w for k, w in weights.items()} for n in lowered.networks}
    machines = {name: Interpreter(lowered.module, arrays) for name, arrays in own.items()}
    x = RNG.standard_normal((COUNT, 1, 8, 8))
    given = {"x": x, **GIVEN}
    (ours,) = machine.run(program.entry, *(given[value.name] for value in lowered.module.entry(program.entry).inputs))

    def evaluate(network: str, absent: tuple[str, ...], x: np.ndarray, t: float) -> np.ndarray:
        at = {**GIVEN, **{CONDITIONS[name]: ABSENT[CONDITIONS[name]] for name in absent}}
        method = lowered.networks[network].methods["forward"]
        operands = {"state": x, "time": np.full(COUNT, t)}
        inputs = (at[port.name] if port.role == "condition" else operands[port.role] for port in method.inputs)
        (out,) = machines[network].run(f"{network}.forward", *inputs)
        return np.asarray(out)

    table = sampler.table(target)
    progress = iter([p for part in table.parts() for p in part.progress.ravel()])
    theirs = run(table, lambda x, t: predict(lambda n, a: evaluate(n, a, x, t), float(next(progress))), x)
    return ours, theirs


def column(name: str) -> np.ndarray:
    return GIVEN[name][:, None, None, None]


def close(pair: tuple[np.ndarray, np.ndarray]) -> bool:
    ours, theirs = pair
    return bool(np.max(np.abs(ours - theirs)) <= 1e-9 * np.max(np.abs(theirs)))


def test_autoguidance_leads_away_from_the_weaker_network() -> None:
    def lerp(at: Any, progress: float) -> np.ndarray:
        good, bad = at("main", ()), at("weak", ())
        return bad + column("scale") * (good - bad)

    assert close(samples("{kind: autoguidance, network: weak}", lerp))


def test_autoguidance_by_an_unconditional_evaluation_of_the_weaker_network() -> None:
    def lerp(at: Any, progress: float) -> np.ndarray:
        good, bad = at("main", ()), at("weak", ("class", "style"))
        return bad + column("scale") * (good - bad)

    assert close(samples("{kind: autoguidance, network: weak, without: [class, style]}", lerp))


def test_each_condition_has_a_scale_of_its_own() -> None:
    """InstructPix2Pix, equation 3: e(0, 0) + s_class (e(class, 0) - e(0, 0)) + s_style (e(all) - e(class, 0))."""

    def nested(at: Any, progress: float) -> np.ndarray:
        nothing, label, everything = at("main", ("class", "style")), at("main", ("style",)), at("main", ())
        return nothing + column("scale_2") * (label - nothing) + column("scale") * (everything - label)

    assert close(samples(TEXT_AND_IMAGE, nested))


def test_one_condition_left_out() -> None:
    def guided(at: Any, progress: float) -> np.ndarray:
        worse = at("main", ("style",))
        return worse + column("scale") * (at("main", ()) - worse)

    assert close(samples("{without: [style]}", guided))


def test_schedules_and_intervals_of_several_terms() -> None:
    def guided(at: Any, progress: float) -> np.ndarray:
        good = at("main", ())
        grown = (1 - np.cos(np.pi * progress**2)) / 2
        out = good + (column("scale") - 1) * grown * (good - at("main", ("class", "style")))
        if 0.3 <= progress <= 0.9:
            out = out + (column("scale_2") - 1) * (good - at("weak", ()))
        return out

    terms = "[{schedule: cosine, power: 2}, {kind: autoguidance, network: weak, interval: [0.3, 0.9]}]"
    assert close(samples(terms, guided))
    assert close(samples(terms, guided, "sampler.kind=heun", "sampler.spacing=null"))


def test_one_classifier_free_term_stays_one_guided_call() -> None:
    """Which a pass batches; several evaluations are calls, each condition set evaluated once."""
    ops = lambda guidance, *more: [  # noqa: E731
        node.op
        for fn in lower(spec_with(guidance, *more)).module.functions.values()
        if "ddim" in fn.name or "euler" in fn.name
        for node in fn.nodes
        if node.op in ("call", "guided")
    ]
    assert ops("{interval: [0.01, 1]}") == ["call", "guided"]  # the first step is not guided
    flow = (
        "objective={kind: flow, process: {kind: interpolant}, predicts: velocity}",
        "sampler.kind=euler",
        "sampler.spacing=even",
    )
    assert ops("{schedule: linear}", *flow) == ["call", "guided"]  # at pure noise the scale is 1
    assert ops("{schedule: linear}") == ["guided"]  # the last timestep is a step from pure noise
    assert ops("[{scale: 2}]") == ["guided"]
    assert ops(TEXT_AND_IMAGE) == ["call"] * 3
    assert ops("[]") == ["call"]


def test_a_learned_variance_is_not_guided() -> None:
    more = ("objective.variance=learned_range", "objective.predicts=noise", "sampler.kind=ddpm")
    spec = spec_with(TEXT_AND_IMAGE, *more)
    module = expand_guidance(lower(spec).module)
    values = [v for fn in module.functions.values() for node in fn.nodes for v in node.outputs]
    guided = [int(v.type.shape[1]) for v in values if v.name.startswith("guided")]
    assert sorted(guided) == [1, 1, 2]  # two terms on the mean alone, then both


@pytest.mark.parametrize("form", ["loop", "host"])
def test_engines_and_emitted_sampler_agree(form: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    terms = "[{without: [style], scale: 2}, {kind: autoguidance, network: weak, scale: 1.5, schedule: linear}]"
    overrides = (*TINY, f"sampler.guidance={terms}", f"target.form={form}")
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", overrides))
    assert report.ok, report.text()
    assert {"forward", "forward weak", "sampler"} <= {c.what for c in report.comparisons}


def test_block_caches_keep_each_evaluation_apart(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    overrides = (*TINY, "backbone.depth=4", f"sampler.guidance={TEXT_AND_IMAGE}", "sampler.steps=6")
    cached = (*overrides, "optimize.cache={blocks: [1, 3], every: 2}")
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", cached))
    assert report.ok, report.text()


@pytest.mark.parametrize(
    ("guidance", "path", "words"),
    [
        ("{without: [colour]}", "without", "no such condition: `colour`"),
        ("{without: [style], absent: [style]}", "without", "left out of both"),
        ("[{kind: autoguidance, network: main}]", "network", "cannot guide itself"),
        ("[{name: a}, {name: a}]", "name", "two terms of guidance are named `a`"),
        ("[{kind: autoguidance, network: other}]", "network", "needs a network `other`"),
        ("{kind: interference, network: main}", "network", "not the mean over them"),
        ("{kind: skipped_tokens, share: 0.5}", "network", "has `routes`"),
        ("{kind: memory}", "guidance", "has no memory between evaluations"),
    ],
)
def test_what_is_refused(guidance: str, path: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        spec_with(guidance)
    assert words in str(refused.value.diagnostics[0].message)


def test_settings_are_named() -> None:
    lowered = lower(spec_with("[{name: style_guidance, scale: 2, without: [style]}, {scale: 3, without: [class]}]"))
    assert [(s.name, s.default) for s in lowered.programs[0].settings] == [("style_guidance", 2.0), ("guidance_2", 3.0)]


def test_schedules_are_finite_where_rounding_leaves_the_interval() -> None:
    term = load("guidance")["classifier_free"].model_validate(
        {"kind": "classifier_free", "schedule": "cosine", "power": 0.5}
    )
    assert np.isfinite(term.weights([-1e-17, 0.5, 1 + 1e-15])).all()


def test_the_ends_of_an_interval_are_in_it_whichever_way_they_were_rounded() -> None:
    term = load("guidance")["classifier_free"].model_validate({"kind": "classifier_free", "interval": [0.3, 0.7]})
    assert term.weights(list(1 - np.linspace(1, 0, 11))).tolist() == [0] * 3 + [1] * 5 + [0] * 3


def test_a_scale_that_a_network_is_told_keeps_its_name() -> None:
    with pytest.raises(DiagnosticError, match="is already set by requests as"):
        load_spec(
            "digits_guided",
            None,
            ["networks.weak={kind: like}", "sampler.guidance={kind: autoguidance, network: weak}"],
        )


def test_a_network_like_another_that_cannot_do_without_conditions_is_refused() -> None:
    """Its own list of conditions is checked as that of the other network would be."""
    with pytest.raises(DiagnosticError, match="begins with a condition, but here it takes none"):
        load_spec("digits_llamagen", None, ["networks.weak={kind: like, conditions: []}"])
