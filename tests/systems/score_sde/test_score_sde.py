"""Score SDEs: the samplers against the published algorithms, likelihoods against exact ones, editing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of
from tiny_systems import SYSTEMS

from latentc.checkpoint import name_map, network_params, network_types, symbols
from latentc.components import load
from latentc.components.processes.formulas import NUMPY
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array as Held
from latentc.weights.names import check_inverse, export_weights

Array = np.ndarray
SAMPLERS = load("samplers")
TINY = ["data={kind: digits}", "backbone.width=16", "backbone.multipliers=[1, 2]", "backbone.blocks=1"]
TINY += ["backbone.attention=[1]", "conditioning.time.frequencies=8"]


def target(kind: str, **fields: Any) -> Parameterization:
    process = load("processes")[kind].model_validate({"kind": kind, **fields})
    return Parameterization(process, "score")  # type: ignore[arg-type]


def score(x: Array, t: float) -> Array:
    """Of no distribution in particular."""
    return np.asarray(-np.tanh(x + t / 1000) - 0.1 * x)


# ---- Song et al.'s algorithms 2 to 5 and appendices E, F and G, written out


def marginal(kind: str, t: float, high: float = 20.0) -> tuple[float, float]:
    if kind == "ve":
        return 1.0, 0.01 * 5000**t
    alpha = math.exp(-0.25 * t * t * (high - 0.1) - 0.5 * t * 0.1)
    return alpha, (math.sqrt(1 - alpha**2) if kind == "vp" else 1 - alpha**2)


def sde(kind: str, t: float) -> tuple[float, float]:
    """(f / x, g)."""
    beta = 0.1 + t * 19.9
    if kind == "ve":
        return 0.0, 0.01 * 5000**t * math.sqrt(2 * math.log(5000))
    g2 = beta if kind == "vp" else beta * (1 - math.exp(-2 * 0.1 * t - 19.9 * t * t))
    return -0.5 * beta, math.sqrt(g2)


def reference(
    kind: str,
    predictor: str,
    corrector: str,
    flow: bool,
    x: Array,
    z: Array,
    time_of: Any,
    score: Callable[[Array, float], Array] = score,
    count: int = 30,
) -> Array:
    eps, snr, noise = 1e-5 if kind == "ve" else 1e-3, 0.16, list(z)
    betas = np.linspace(0.1 / count, 20 / count, count)
    sigmas = np.exp(np.linspace(math.log(0.01), math.log(50), count))
    x = x * (50 if kind == "ve" else 1)
    for i, t in enumerate(np.linspace(1, eps, count)):
        k = count - 1 - i
        alpha = 1 - betas[k] if kind == "vp" else 1.0
        if corrector != "none":
            s, n = score(x, time_of(t)), noise.pop(0)
            ratio = np.linalg.norm(n.reshape(len(n), -1), axis=1) / np.linalg.norm(s.reshape(len(s), -1), axis=1)
            r = ratio.reshape(-1, 1, 1, 1) if corrector == "langevin" else marginal(kind, t)[1]
            step = 2 * alpha * (snr * r) ** 2
            x = x + step * s + np.sqrt(2 * step) * n
        s, n = score(x, time_of(t)), noise.pop(0)
        half = 0.5 if flow else 1.0
        below = sigmas[k - 1] if k else 0.0
        f, g = sde(kind, t)
        if predictor == "ancestral":
            v = sigmas[k] ** 2 - below**2 if kind == "ve" else betas[k]
            mean = x + v * s if kind == "ve" else (x + v * s) / math.sqrt(1 - betas[k])
            std = math.sqrt(below**2 * v / sigmas[k] ** 2) if kind == "ve" else math.sqrt(betas[k])
        elif predictor == "reverse_diffusion" and kind != "sub_vp":
            g2 = sigmas[k] ** 2 - below**2 if kind == "ve" else betas[k]
            moved = 0.0 if kind == "ve" else (math.sqrt(1 - betas[k]) - 1) * x
            mean, std = x - (moved - half * g2 * s), math.sqrt(g2)
        else:
            mean, std = x - (f * x - half * g * g * s) / count, g / math.sqrt(count)
        x = mean + (0.0 if flow or i == count - 1 else std) * n
    return x


@pytest.mark.parametrize("corrector", ["langevin", "annealed", "none"])
@pytest.mark.parametrize(
    ("kind", "predictor", "flow"),
    [
        ("ve", "reverse_diffusion", False),
        ("ve", "euler_maruyama", False),
        ("ve", "ancestral", False),
        ("vp", "reverse_diffusion", True),
        ("vp", "euler_maruyama", False),
        ("vp", "ancestral", False),
        ("sub_vp", "reverse_diffusion", False),
        ("sub_vp", "euler_maruyama", True),
    ],
)
def test_predictors_and_correctors(kind: str, predictor: str, flow: bool, corrector: str) -> None:
    own = {"sigma_min": 0.01, "sigma_max": 50, "eps": 1e-5, "time_input": "log_sigma"} if kind == "ve" else {}
    at = target(kind, **own)
    fields = {"predictor": predictor, "corrector": corrector, "probability_flow": flow, "steps": 30}
    sampler = SAMPLERS["predictor_corrector"].model_validate({"kind": "predictor_corrector", **fields})
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 1, 4, 4))
    z = rng.standard_normal((60, *x.shape))
    found = run(sampler.table(at), score, x, z)  # type: ignore[attr-defined]
    wanted = reference(kind, predictor, corrector, flow, x, z, lambda t: float(at.process.point(t).time))
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_the_classifier_guides_predictor_and_corrector() -> None:
    """As the authors' sampler of classes: both see the score plus the gradient of log p(class | x, t)."""
    tiny = SYSTEMS["score_sde_guided"]
    spec: Any = load_spec(
        tiny.spec, tiny.variant, [*tiny.sizes, "data.fields.x.shape=[1, 4, 4]", "sampler.norms=sample"]
    )
    lowered, rng = lower(spec), np.random.default_rng(0)
    oracle = Interpreter(lowered.module, weights_of(lowered, 0.2, rng))
    y, scale = np.array([3, 8]), np.array([2.0, 0.5])
    x, z = rng.standard_normal((2, 1, 4, 4)), rng.standard_normal((6, 2, 1, 4, 4))
    directions, step = np.eye(16).reshape(16, 1, 4, 4), 1e-5

    def log_p(x: Array, time: float, label: int) -> Array:
        (logits,) = oracle.run("classifier.forward", x, np.full(len(x), time), prefix="classifier")
        return np.asarray(logits[:, label] - np.log(np.exp(logits).sum(1)))

    def guided(x: Array, t: float) -> Array:
        point = spec.objective.process.point(t)
        time, sigma = float(point.time), float(point.sigma)
        (out,) = oracle.run("main.forward", x, np.full(2, time), prefix="main")
        ends = [
            [log_p(one + way * sigma * directions, time, k) for way in (step, -step)]
            for one, k in zip(x, y, strict=True)
        ]
        slopes = [(up - down).reshape(x[0].shape) / (2 * step * sigma) for up, down in ends]
        return np.asarray(out / sigma + scale[:, None, None, None] * slopes)

    names = [value.name for value in lowered.module.entry("sample.3").inputs]
    given = {"x": x, "y": y, "classifier_scale": scale, "noise": z}
    (found,) = oracle.run("sample.3", *(given[name] for name in names))
    wanted = reference("ve", "reverse_diffusion", "langevin", False, x, z, lambda t: t, guided, 3)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    (unguided,) = oracle.run("sample.3", *({**given, "classifier_scale": 0 * scale}[name] for name in names))
    assert np.abs(found - unguided).max() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(("method", "order"), [("rk4", 4), ("dopri5", 5)])
def test_the_order_of_runge_kutta_methods(method: str, order: int) -> None:
    at, x = target("vp", beta_max=4.0, eps=0.2), np.linspace(-1, 1, 16).reshape(1, 1, 4, 4)

    def solved(steps: int) -> Array:
        sampler = SAMPLERS["probability_flow"].model_validate(
            {"kind": "probability_flow", "steps": steps, "method": method}
        )
        return run(sampler.table(at), lambda x, t: -np.tanh(x), x)  # type: ignore[attr-defined, no-any-return]

    exact = solved(400)
    errors = [np.abs(solved(n) - exact).max() for n in (4, 8)]
    assert math.log2(errors[0] / errors[1]) > order - 0.7


@pytest.mark.parametrize("kind", ["ve", "vp", "sub_vp"])
def test_a_solution_ends_with_a_step_of_reverse_diffusion_without_noise(kind: str) -> None:
    own = {"sigma_min": 0.01, "sigma_max": 50, "time_input": "log_sigma"} if kind == "ve" else {}
    at, x = target(kind, eps=0.2, **own), np.random.default_rng(0).standard_normal((3, 1, 4, 4))
    fields = {"kind": "probability_flow", "steps": 4}
    plain, last = (SAMPLERS["probability_flow"].model_validate(fields | more) for more in ({}, {"denoise": 1000}))
    solved, found = (run(sampler.table(at), score, x) for sampler in (plain, last))  # type: ignore[attr-defined]
    s, k = score(solved, float(at.process.point(0.2).time)), 199  # of steps 0 to 999
    beta, sigmas = np.linspace(0.1, 20, 1000)[k] / 1000, np.geomspace(0.01, 50, 1000)
    f, g = sde(kind, 0.2)
    wanted = {
        "ve": solved + (sigmas[k] ** 2 - sigmas[k - 1] ** 2) * s,
        "vp": (2 - math.sqrt(1 - beta)) * solved + beta * s,
        "sub_vp": solved - (f * solved - g**2 * s) / 1000,
    }[kind]
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max() and np.abs(solved - wanted).max() > 1e-4
    assert last.table(at).steps == plain.table(at).steps == 4  # type: ignore[attr-defined]


def test_adaptive_steps_end_with_the_same_step() -> None:
    """That of Euler's method in 1000 steps for the sub-VP SDE, which has no discrete form."""
    tiny, rng = [*TINY, "objective.process.eps=0.2"], np.random.default_rng(1)
    sampler = "sampler={kind: dopri5, rtol: 0.1, atol: 0.1, max_steps: 4}"
    plain, last = (
        lower(load_spec("score_sde", "subvp-ddpmpp", [*tiny, sampler, *more]))
        for more in ((), ["sampler.kind=denoised_dopri5"])
    )
    weights, x = weights_of(plain, 0.1), rng.standard_normal((2, 1, 8, 8))
    (solved, before), (found, after) = (
        Interpreter(low.module, weights).run(low.programs[0].entry, x) for low in (plain, last)
    )
    forward = plain.networks["main"].main.function
    (out,) = Interpreter(plain.module, weights).run(forward, solved, np.full(2, 999 * 0.2), prefix="main")
    (f, g), sigma = sde("sub_vp", 0.2), marginal("sub_vp", 0.2)[1]
    wanted = solved - (f * solved + g**2 * out / sigma) / 1000
    assert np.abs(found - wanted).max() < 1e-9 * np.abs(wanted).max()
    assert np.array_equal(after, before + 1) and last.programs[0].evaluations == plain.programs[0].evaluations + 1


# ---- likelihood


@pytest.mark.parametrize("kind", ["probability_flow", "predictor_corrector"])
def test_several_numbers_of_steps_have_one_likelihood(kind: str) -> None:
    spec = load_spec("score_sde", "vp-ddpmpp", [*TINY, f"sampler={{kind: {kind}, likelihood: {{steps: 2}}}}"])
    names = [(program.name, program.steps) for program in lower(spec, steps=(4, 2)).programs]
    assert names == [("sample", 4), ("log_likelihood", 2), ("sample", 2)]


LIKELIHOOD = "sampler={kind: probability_flow, steps: 4, likelihood: {steps: 6, dequantise: false}}"


def test_the_likelihood_of_a_linear_flow_is_exact() -> None:
    """A network that predicts no noise leaves dx = f x dt, which maps a normal to a normal."""
    low = lower(load_spec("score_sde", "vp-ddpmpp", [*TINY, "objective.process.eps=0.49", LIKELIHOOD]))
    x = np.random.default_rng(0).uniform(-1, 1, (2, 1, 8, 8))
    program = low.program("log_likelihood", 6)
    given = {"x": x, "probe": np.random.default_rng(1).standard_normal(x.shape)}
    log_p, bits, latent = Interpreter(low.module, weights_of(low, 0.0)).run(
        program.entry, *(given[name] for name in program.sources)
    )
    ratio = marginal("vp", 1.0)[0] / marginal("vp", 0.49)[0]
    wanted = -0.5 * (ratio * x.reshape(2, -1)) ** 2 - 0.5 * math.log(2 * math.pi) + math.log(ratio)
    assert np.allclose(log_p, wanted.sum(1), rtol=1e-3)
    assert np.allclose(latent, ratio * x, rtol=2e-2)
    assert np.allclose(bits, 7 - log_p / 64 / math.log(2))


def test_the_likelihood_is_that_of_its_definition() -> None:
    """Euler's method in many steps on the flow and, by differences, on the projected divergence."""
    sizes = [*TINY, "sampler={kind: probability_flow, steps: 4, likelihood: {steps: 4, dequantise: false}}"]
    low = lower(
        load_spec("score_sde", "vp-ddpmpp", [*sizes, "objective.process.eps=0.49", "objective.process.beta_max=2"])
    )
    weights = weights_of(low, 0.2)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 1, 8, 8))
    z = np.random.default_rng(1).standard_normal(x.shape)
    program = low.program("log_likelihood", 4)
    given = {"x": x, "probe": z}
    log_p, _, latent = Interpreter(low.module, weights).run(program.entry, *(given[n] for n in program.sources))
    signs, forward = np.where(z > 0, 1.0, -1.0), low.networks["main"].main.function
    oracle, steps, change = Interpreter(low.module, weights), 12, 0.0

    def velocity(x: Array, t: float) -> Array:
        (noise,) = oracle.run(forward, x, np.array([999 * t]), prefix="main")
        _, sigma = marginal("vp", t, 2.0)
        beta = 0.1 + 1.9 * t
        return np.asarray(-0.5 * beta * (x - noise / sigma))

    def slope(x: Array, t: float) -> tuple[Array, float]:
        h = 1e-5
        v = velocity(x, t)
        return v, float((signs * (velocity(x + h * signs, t) - velocity(x - h * signs, t)) / (2 * h)).sum())

    size = 0.51 / steps
    for i in range(steps):  # the midpoint method
        t = 0.49 + i * size
        v, _ = slope(x, t)
        v, d = slope(x + 0.5 * size * v, t + 0.5 * size)
        x, change = x + size * v, change + size * d
    prior = -0.5 * (x**2).sum() - 32 * math.log(2 * math.pi)
    assert np.abs(latent - x).max() < 1e-2 * np.abs(x).max()
    assert log_p[0] == pytest.approx(prior + change, rel=5e-3)


# ---- editing


def test_what_is_given_stays() -> None:
    sizes = [*TINY, "data={kind: npz, path: x.npz, shape: [3, 8, 8], classes: 0}"]
    edits = "sampler={kind: predictor_corrector, steps: 3, inpaint: true, colourise: true}"
    low = lower(load_spec("score_sde", "vp-ncsnpp", [*sizes, edits]))
    weights, rng = weights_of(low, 0.1), np.random.default_rng(0)
    given = {"x": rng.standard_normal((2, 3, 8, 8)), "given": rng.uniform(-1, 1, (2, 3, 8, 8))}
    given["keep"] = (rng.uniform(size=(2, 1, 8, 8)) > 0.5).astype(float)
    given["noise"] = rng.standard_normal((6, 2, 3, 8, 8))
    given["known_noise"] = rng.standard_normal((6, 2, 3, 8, 8))
    alpha = marginal("vp", 1e-3)[0]
    for name in ("inpaint", "colourise"):
        program = low.program(name, 3)
        (out,) = Interpreter(low.module, weights).run(program.entry, *(given[n] for n in program.sources))
        kept, wanted = (
            (out * given["keep"], alpha * given["given"] * given["keep"])
            if name == "inpaint"
            else (out.mean(1), alpha * given["given"].mean(1))
        )
        assert np.allclose(kept, wanted, atol=1e-6)
        assert np.abs(out - alpha * given["given"]).max() > 0.1


def test_conditions_are_annealed_in_edits_too() -> None:
    sampler = "sampler={kind: predictor_corrector, steps: 3, inpaint: true}"
    sizes = ("backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2")
    low = lower(load_spec("digits_sit", overrides=[*sizes, sampler, "programs=[annealing]"]))
    sample, inpaint = (low.program(name, 3).sources for name in ("sample", "inpaint"))
    assert "y_embedding_noise" in sample and set(sample) < set(inpaint)


@pytest.mark.parametrize("encoder", ["standard", "skip", "skip_concat", "residual", "padded_residual"])
@pytest.mark.parametrize("decoder", ["standard", "skip", "residual"])
@pytest.mark.parametrize("resampling", ["block", "padded_conv"])
def test_every_network_has_official_names(encoder: str, decoder: str, resampling: str) -> None:
    """The name map of each is a bijection onto all_modules.N, without a gap."""
    options = [f"backbone.encoder={encoder}", f"backbone.decoder={decoder}", f"backbone.resampling={resampling}"]
    spec = load_spec("score_sde", "vp-ddpmpp", [*TINY, "backbone.multipliers=[1, 1, 2]", *options])
    low = lower(spec)
    network = low.networks["main"]
    types, sizes = network_types(low, "main"), symbols(low, network)
    rules = name_map(spec, "main", "official")
    check_inverse(rules, types, sizes)
    own = {n: Held(np.zeros(shape, np.float32)) for n, (shape, _) in types.items()}
    numbers = {int(name.split(".")[1]) for name in export_weights(own, rules, sizes=sizes) if name != "sigmas"}
    assert numbers == set(range(max(numbers) + 1))


# ---- likelihood weighting (Song et al. 2021, arXiv:2101.09258)

WEIGHTED = "weighting: likelihood, reduction: mean"


@pytest.mark.parametrize(
    ("kind", "predicts"),
    [("vp", "noise"), ("vp", "velocity"), ("sub_vp", "score"), ("sub_vp", "x0"), ("ve", "scaled_score")],
)
def test_likelihood_weighting_is_the_error_of_the_score_times_the_squared_diffusion(kind: str, predicts: str) -> None:
    process = (
        "{kind: ve, sigma_min: 0.01, sigma_max: 50, time_input: log_sigma}" if kind == "ve" else f"{{kind: {kind}}}"
    )
    objective = f"objective={{kind: score_matching, process: {process}, predicts: {predicts}, {WEIGHTED}}}"
    lowered = lower(load_spec("score_sde", None, [*TINY, objective]))
    rng = np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    held = {name: rng.normal(size=param.type.shape) * 0.1 for name, param in params.items()}
    network = Interpreter(lowered.module, held)
    oracle = Interpreter(lowered.module, {f"main.{name}": array for name, array in held.items()})
    x, z, u = rng.normal(size=(3, 1, 8, 8)), rng.normal(size=(3, 1, 8, 8)), np.array([0.2, 0.5, 0.9])
    given = {"x": x, "u": u, "noise": z}
    (found,) = oracle.run("loss.terms", *(given[v.name] for v in lowered.module.entry("loss.terms").inputs))
    eps = 0.0 if kind == "ve" else 1e-5
    for i, t in enumerate(u * (1 - eps) + eps):
        alpha, sigma = marginal(kind, t)
        x_t, told = alpha * x[i : i + 1] + sigma * z[i : i + 1], math.log(sigma) if kind == "ve" else 999 * t
        (out,) = network.run("main.forward", x_t, np.array([told]))
        if predicts == "velocity":
            out = alpha * x_t - sigma * out  # of the data
        s = {"noise": -out / sigma, "scaled_score": out / sigma, "score": out}.get(predicts)
        s = (alpha * out - x_t) / sigma**2 if s is None else s
        wanted = np.mean((s + z[i] / sigma) ** 2) * sde(kind, t)[1] ** 2
        assert abs(found[i] - wanted) < 1e-6 * wanted


@pytest.mark.parametrize("kind", ["vp", "sub_vp"])
def test_times_of_even_log_snr_are_importance_sampling_for_it(kind: str) -> None:
    """Whatever the error at a time, its weighted mean over uniform times is that over importance-sampled ones."""
    process = load("processes")[kind].model_validate({"kind": kind, "times": "log_snr"})
    u = (np.arange(200_000) + 0.5) / 200_000
    t = process.training_time(NUMPY, u, "noise")
    log_snr = 2 * np.log(process.point(t).level)
    assert np.allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=1e-3)
    grid = np.geomspace(1e-5, 1.0, 200_000)
    weight = np.array([sde(kind, s)[1] ** 2 / marginal(kind, s)[1] ** 2 for s in grid])
    for error in (lambda s: np.exp(-3 * s), lambda s: s * (2 - s)):
        wanted = np.trapezoid(error(grid) * weight, grid) / (1 - 1e-5)
        assert abs(process.importance * error(t).mean() / wanted - 1) < 1e-3


def test_likelihood_weighting_refuses_steps() -> None:
    with pytest.raises(DiagnosticError, match="needs a process in continuous time, but `discrete` has time steps"):
        load_spec("digits_dit", None, [f"objective={{kind: score_matching, {WEIGHTED}}}"])
