"""Normalising flows: the inverse inverts, likelihoods follow from it, and engines compute both in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_data import error, load
from random_weights import random_weights as weights_of

import latentc_runtime
from latentc import api
from latentc.checkpoint import computed, network_params
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, materialise, read_safetensors, write_safetensors

TINY = ["backbone.width=8", "backbone.flows=3", "backbone.depth=1", "backbone.block.mixer.heads=2"]
PLAIN = "sampler={kind: flow_inverse, guidance: null, denoise: 0}"


def lowered_flow(*overrides: str) -> Lowered:
    return lower(load_spec("digits_tarflow", None, [*TINY, *overrides]))


def random_weights(lowered: Lowered, seed: int = 0, std: float = 0.1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    params = network_params(lowered, lowered.networks["main"])
    return {
        name: array + (name.endswith(("norm1.weight", "norm2.weight")) and not computed(params[name]))
        for name, array in weights_of(params, rng, std).items()
    }


def interpreter(lowered: Lowered, weights: dict[str, np.ndarray], prefix: str = "main.") -> Interpreter:
    return Interpreter(lowered.module, {f"{prefix}{name}": array for name, array in weights.items()})


def positive(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with a prior of positive variances."""
    return {name: np.exp(array) if name == "variance" else array for name, array in weights.items()}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 16),
    size=st.sampled_from([(4, 2), (8, 2), (6, 2), (9, 3)]),
    flows=st.integers(1, 4),
    depth=st.integers(1, 2),
    conditional=st.booleans(),
)
def test_forward_of_inverse_is_the_identity(
    seed: int, size: tuple[int, int], flows: int, depth: int, conditional: bool
) -> None:
    side, patch = size
    overrides = [f"data={{kind: npz, path: a.npz, shape: [2, {side}, {side}], classes: 10}}", f"backbone.patch={patch}"]
    overrides += [f"backbone.flows={flows}", f"backbone.depth={depth}", PLAIN]
    overrides += [] if conditional else ["backbone.conditions=[]"]
    lowered = lowered_flow(*overrides)
    oracle = interpreter(lowered, random_weights(lowered, seed), prefix="")
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((2, (side // patch) ** 2, 2 * patch**2))
    told = [rng.integers(0, 11, 2)] if conditional else []
    (x,) = oracle.run("main.inverse", z, *told)
    again, log_det = oracle.run("main.forward", x, *told)
    np.testing.assert_allclose(again, z, atol=1e-5 * np.abs(z).max())
    (back,) = oracle.run("main.inverse", again, *told)
    np.testing.assert_allclose(back, x, atol=1e-5 * np.abs(x).max())
    assert np.abs(log_det).max() > 1e-4


STARFLOW = ["backbone.conditions_as=prefix", "backbone.positions={kind: rope_prefix, pairs: 2}"]
STARFLOW += ["backbone.width=16", "backbone.block.mixer.heads=2", "backbone.start_token=true"]
STARFLOW += ["backbone.soft_clip=4", "backbone.final_norm={kind: rms_norm}", "backbone.scale=softplus"]
WIDER = ["backbone.kind=video_flow", "backbone.last_width=24"]
OPTIONS = {
    "whole": [*STARFLOW, *WIDER, "backbone.conditioned_flows=last", "backbone.depths=[1, 0, 2]"],
    "every flow told": [*STARFLOW, "backbone.reverse_first=true", "backbone.channels_last=true"],
    "start token, learned positions": ["backbone.start_token=true", "backbone.conditioned_flows=last"],
    "branches normalised, halves turned": [
        *STARFLOW,
        "backbone.block.condition={kind: in_context, branch_norm: {kind: rms_norm}}",
        "backbone.block.mixer.rotary_halves=true",
    ],
    "heads of a width of their own": [
        *STARFLOW,
        *("backbone.block.mixer.head_width=12", "backbone.block.mixer.kv_heads=1", *WIDER),
    ],
    "rotary, no start token": [*STARFLOW[:4], "backbone.positions={kind: rope_2d}", "backbone.scale=softplus"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_keep_the_flow_invertible(name: str) -> None:
    lowered = lowered_flow(*OPTIONS[name], PLAIN)
    oracle = interpreter(lowered, random_weights(lowered), prefix="")
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, 16, 4)), np.array([1, 10])
    (x,) = oracle.run("main.inverse", z, y)
    again, _ = oracle.run("main.forward", x, y)
    np.testing.assert_allclose(again, z, rtol=0, atol=1e-8 * np.abs(z).max())
    other = oracle.run("main.inverse", z, y[::-1].copy())[0]
    assert np.abs(other - x).max() > 1e-3  # the class matters


JACOBI = "sampler={kind: starflow_inverse, guidance: {scale: 2}, jacobi: {block: 4, iterations: 3, threshold: 0.01}}"
GUIDED = {
    **{name: options for name, options in OPTIONS.items() if "learned" not in name},
    "linear, learned positions": OPTIONS["start token, learned positions"],
    "TarFlow's scales": ["backbone.guides=scale"],
    "densities": [*STARFLOW, "backbone.guidance=density", "backbone.conditioned_flows=last"],
}


@pytest.mark.parametrize("name", GUIDED)
def test_jacobi_iterations_find_what_the_sequential_inverse_does(name: str) -> None:
    """With as many iterations as tokens in a block the same; with fewer nearly so. Blocks of 6 overlap in 16 tokens."""
    rng = np.random.default_rng(0)
    given = {"z": rng.standard_normal((2, 16, 4)), "y": np.array([1, 7]), "scale": np.array([2.0, 1.5])}
    found = {}
    for jacobi in ("null", "{block: 6, iterations: 6}", "{block: 6, iterations: 3}", "{block: 64, iterations: 9}"):
        guided = f"sampler={{kind: starflow_inverse, guidance: {{scale: 2}}, denoise: 0, jacobi: {jacobi}}}"
        lowered = lowered_flow(*GUIDED[name], guided)
        own = _ordered(lowered, "sample.16", given)
        found[jacobi] = interpreter(lowered, random_weights(lowered)).run("sample.16", *own)[0]
    one_by_one, exact, *near = found.values()
    size = np.abs(one_by_one).max()
    np.testing.assert_allclose(exact, one_by_one, rtol=0, atol=1e-12 * size)
    assert all(0 < np.abs(x - one_by_one).max() / size < 1e-3 for x in near)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("jacobi: {block: 4, iterations: 5}", "5 iterations are too many: 4 always find all"),
        ("jacobi: {block: 4, iterations: 4, later: 6}", "`later` applies to the later frames of a video"),
    ],
)
def test_jacobi_iterations_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec(
            "digits_tarflow", None, [*TINY, f"sampler={{kind: starflow_inverse, guidance: {{scale: 2}}, {options}}}"]
        )


def test_guidance_that_grows_needs_guidance() -> None:
    with pytest.raises(DiagnosticError, match="nothing grows without guidance"):
        load_spec("digits_tarflow", None, [*TINY, "sampler.guidance=null"])


def test_guided_densities_are_a_product_of_powers() -> None:
    """One flow of two tokens: log p of what the first becomes is that of c (c / u)^w, up to its normaliser."""
    options = [*STARFLOW, "backbone.guidance=density", "backbone.flows=1", "backbone.depth=1"]
    lowered = lowered_flow("data={kind: npz, path: a.npz, shape: [1, 4, 4], classes: 10}", *options, PLAIN)
    oracle = interpreter(lowered, random_weights(lowered, std=0.4), prefix="")
    z, y, none = np.random.default_rng(3).standard_normal((8, 4, 4)), np.arange(8), np.full(8, 10)

    def first(z: np.ndarray, y: np.ndarray) -> np.ndarray:
        (x,) = oracle.run("main.inverse", z, y)
        return np.asarray(x[:, 0, :2, :2].reshape(8, 4))

    def normal(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = first(np.zeros_like(z), y)
        return mean, first(np.ones_like(z), y) - mean

    (mu, sigma), (other_mu, other_sigma) = normal(y), normal(none)
    w = 1.5
    ratio = np.minimum(sigma / other_sigma, 1)
    precision = ((1 + w) - w * ratio**2) / sigma**2
    mean = ((1 + w) * mu / sigma**2 - w * ratio**2 / sigma**2 * other_mu) / precision
    (x,) = oracle.run("main.guided_inverse", z, y, none, np.ones(8), np.full((4, 8), 1 + w))
    np.testing.assert_allclose(x[:, 0, :2, :2].reshape(8, 4), mean + z[:, 0] / np.sqrt(precision), rtol=1e-6)


@pytest.mark.parametrize("guides", ["both", "scale", "shift"])
def test_guidance_is_of_scale_and_shift_or_of_one(guides: str) -> None:
    """One flow: the first token stays as it is, the second one's scale and shift follow from it."""
    options = [f"backbone.guides={guides}", "backbone.flows=1", PLAIN]
    lowered = lowered_flow("data={kind: npz, path: a.npz, shape: [1, 4, 4], classes: 10}", *options)
    oracle = interpreter(lowered, random_weights(lowered, std=0.2), prefix="")
    z, y, none = np.random.default_rng(3).standard_normal((8, 4, 4)), np.arange(8), np.full(8, 10)

    def second(value: float, y: np.ndarray) -> np.ndarray:
        (x,) = oracle.run("main.inverse", np.concatenate([z[:, :1], np.full((8, 3, 4), value)], axis=1), y)
        return np.asarray(x[:, 0, :2, 2:].reshape(8, 4))

    shift, other_shift = second(0.0, y), second(0.0, none)
    log, other_log = np.log(second(1.0, y) - shift), np.log(second(1.0, none) - other_shift)
    w = 1.5
    log = log + w * (log - other_log) * (guides != "shift")
    shift = shift + w * (shift - other_shift) * (guides != "scale")
    (x,) = oracle.run("main.guided_inverse", z, y, none, np.ones(8), np.full((3, 8), 1 + w))
    np.testing.assert_allclose(x[:, 0, :2, 2:].reshape(8, 4), shift + z[:, 1] * np.exp(log), rtol=1e-6, equal_nan=False)


def test_densities_are_guided_as_a_whole() -> None:
    with pytest.raises(DiagnosticError, match="combines whole densities"):
        load_spec("digits_tarflow", None, [*TINY, "backbone.guidance=density", "backbone.guides=scale"])


@pytest.mark.parametrize(("norm", "offset"), [("rms_norm", 1.0), ("layer_norm", 0.0)])
def test_starflows_rms_norms_are_stored_as_offsets_from_one(norm: str, offset: float, tmp_path: Path) -> None:
    sizes = ["data.shape=[1, 2, 2]", "data.first_stage=null", "data.fields.text.shape=[1, 2]"]
    sizes += ["data.fields.text_mask.shape=[1]", "backbone.width=64", "backbone.block.mixer.heads=1"]
    sizes += ["backbone.flows=2", "backbone.depths=[1, 1]", f"backbone.block.norm={{kind: {norm}, affine: true}}"]
    lowered = lower(load_spec("starflow", None, sizes))
    own = {name: array.astype(np.float32) for name, array in random_weights(lowered).items()}
    write_safetensors(tmp_path / "own.safetensors", {name: Array(array) for name, array in own.items()})
    theirs = tmp_path / "theirs.safetensors"
    api.convert_weights("starflow", tmp_path / "own.safetensors", theirs, None, "official", overrides=sizes)
    found = materialise(read_safetensors(theirs)["blocks.1.attn_blocks.0.mlp.norm.weight"])
    np.testing.assert_allclose(found, own["blocks.1.attn_blocks.0.norm2.weight"] - offset, rtol=1e-5)


def test_starflows_class_is_a_text_of_one_token() -> None:
    """The features of the token are the class one-hot, as in the authors' map of classes; of no class they are zero.

    The model of texts is compared with recorded results of the authors' code.
    """
    sizes = ["data.shape=[2, 4, 4]", "data.first_stage=null", "backbone.width=16", "backbone.block.mixer.heads=2"]
    sizes += ["backbone.flows=2", "backbone.depths=[1, 2]", "backbone.positions.pairs=2"]
    classes = lower(load_spec("starflow_class", None, [*sizes, "data.classes=5", "data.class_names=null"]))
    texts = ["data.fields.text.shape=[1, 5]", "data.fields.text_mask.shape=[1]", "sampler.guidance.scale=2.5"]
    captioned = lower(load_spec("starflow", None, [*sizes, *texts]))
    weights = random_weights(classes, std=0.3)
    weights["blocks.1.class_embed.weight"][5:] = 0  # of no class
    types = network_params(captioned, captioned.networks["main"])
    named = {"blocks.1.text_embed.weight": weights["blocks.1.class_embed.weight"][:5].T}
    named["blocks.1.text_embed.bias"] = weights["blocks.1.class_embed.bias"]
    as_texts = {name: named.get(name, weights.get(name)) for name in types}
    y, rng = np.array([1, 4]), np.random.default_rng(0)
    text = {"text": np.eye(5)[y][:, None], "text_mask": np.ones((2, 1), bool)}
    given = {"z": rng.standard_normal((2, 16, 2)), "x": rng.standard_normal((2, 2, 4, 4)), "scale": np.full(2, 2.5)}
    for entry in ("sample.16", "log_likelihood"):
        (found, *_) = interpreter(classes, weights).run(entry, *_ordered(classes, entry, {**given, "y": y}))
        (wanted, *_) = interpreter(captioned, as_texts).run(entry, *_ordered(captioned, entry, {**given, **text}))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_log_determinant_is_that_of_the_jacobian() -> None:
    lowered = lowered_flow("data={kind: npz, path: a.npz, shape: [1, 4, 4], classes: 10}", PLAIN)
    oracle = interpreter(lowered, random_weights(lowered), prefix="")
    x, y = np.random.default_rng(1).standard_normal((1, 1, 4, 4)), np.array([3])
    _, log_det = oracle.run("main.forward", x, y)
    step = 1e-5
    moved = [x + step * sign * np.eye(16).reshape(16, 1, 4, 4) for sign in (1, -1)]
    up, down = (oracle.run("main.forward", m, np.repeat(y, 16))[0].reshape(16, 16) for m in moved)
    _, expected = np.linalg.slogdet((up - down) / (2 * step))
    np.testing.assert_allclose(log_det * 16, expected, rtol=1e-6)


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx", "openvino"])
def test_log_determinant_of_the_authors(backend: str, tmp_path: Path) -> None:
    numbers = load("tarflow.fwd")
    sizes = ["data.shape=[3, 8, 8]", "data.classes=10", "backbone.width=64", "backbone.flows=2", "backbone.depth=2"]
    sizes += ["backbone.block.mixer.heads=1"]
    write_safetensors(tmp_path / "official.safetensors", {n: Array(a) for n, a in numbers.weights.items()})
    outs = api.run_method(
        "tarflow", tmp_path / "official.safetensors", numbers.inputs, backend, overrides=sizes, names="official"
    )
    assert error(list(outs.values())[1], numbers.outputs["out.f.2"]) < 1e-5


def test_likelihood_of_samples() -> None:
    """log p of a sample is the base density of its noise, and minus what the inverse stretched space by."""
    lowered = lowered_flow(PLAIN)
    oracle = interpreter(lowered, random_weights(lowered))
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, 16, 4)), np.array([1, 7])
    (x,) = oracle.run("sample.16", z, y)
    log_p, latent = oracle.run("log_likelihood", x, y)
    _, log_det = interpreter(lowered, random_weights(lowered), prefix="").run("main.forward", x, y)
    base = -0.5 * (z**2).sum((1, 2)) - 32 * np.log(2 * np.pi)
    np.testing.assert_allclose(latent, z, atol=1e-8)
    np.testing.assert_allclose(log_p, base + 64 * log_det, rtol=1e-9)


def test_denoising_follows_the_gradient_of_the_likelihood() -> None:
    """x + std^2 grad log p(x), the posterior mean of data under Gaussian noise (Tweedie)."""
    rng, y, step = np.random.default_rng(0), np.array([4]), 1e-5
    z = rng.standard_normal((1, 16, 4))
    with_step, without = lowered_flow(PLAIN.replace("denoise: 0", "denoise: 0.3")), lowered_flow(PLAIN)
    weights = random_weights(without)
    (denoised,) = interpreter(with_step, weights).run("sample.16", z, y)
    oracle = interpreter(without, weights)
    (x,) = oracle.run("sample.16", z, y)
    moved = [x + step * sign * np.eye(64).reshape(64, 1, 8, 8) for sign in (1, -1)]
    up, down = (oracle.run("log_likelihood", m, np.repeat(y, 64))[0] for m in moved)
    np.testing.assert_allclose(denoised - x, 0.09 * ((up - down) / (2 * step)).reshape(x.shape), rtol=1e-5, atol=1e-7)


def test_flows_that_only_shift_have_a_prior_of_learned_variances(tmp_path: Path) -> None:
    """Samples are those of independent normals, shifted; volumes are preserved, and the authors' `var` is the prior."""
    lowered = lowered_flow("backbone.scale=none", "objective.levels=256", PLAIN)
    weights = positive(random_weights(lowered))
    oracle, alone = interpreter(lowered, weights), interpreter(lowered, weights, prefix="")
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, 16, 4)), np.array([1, 7])
    (x,) = oracle.run("sample.16", z, y)
    latent, log_det = alone.run("main.forward", x, y)
    np.testing.assert_allclose(latent, z * np.sqrt(weights["variance"]), atol=1e-8)
    assert not log_det.any()
    log_p, again = oracle.run("log_likelihood", x, y)
    np.testing.assert_allclose(again, z, atol=1e-8)
    base = -0.5 * (z**2).sum((1, 2)) - 32 * np.log(2 * np.pi) - 0.5 * np.log(weights["variance"]).sum()
    np.testing.assert_allclose(log_p, base, rtol=1e-9)
    drawn = {"noise": np.zeros_like(x), "drop": np.ones(2)}
    loss, bits = (out.mean() for out in oracle.run("loss", *_ordered(lowered, "loss", {"x": x, "y": y, **drawn})))
    np.testing.assert_allclose(loss, 0.5 * (latent**2).mean(), rtol=1e-9)
    np.testing.assert_allclose(bits, -log_p.mean() / 64 / np.log(2) + 7, rtol=1e-9)

    own = {name: Array(array.astype(np.float32)) for name, array in weights.items()}
    write_safetensors(tmp_path / "own.safetensors", own)
    sizes = ["data.shape=[1, 8, 8]", "data.classes=10", *TINY, "backbone.scale=none"]
    theirs = tmp_path / "theirs.safetensors"
    api.convert_weights("tarflow", tmp_path / "own.safetensors", theirs, None, "official", overrides=sizes)
    found = materialise(read_safetensors(theirs)["var"])
    np.testing.assert_array_equal(found, weights["variance"].astype(np.float32))


def _ordered(lowered: Lowered, entry: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [given[value.name] for value in lowered.module.entry(entry).inputs]


@pytest.mark.parametrize("override", ["backbone.guidance=density", "backbone.guides=scale"])
def test_flows_that_only_shift_are_guided_by_shifts(override: str) -> None:
    with pytest.raises(DiagnosticError, match="guided by their shifts"):
        load_spec("digits_tarflow", None, [*TINY, "backbone.scale=none", override])


def test_norms_of_what_flows_are_given_are_weighed() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, 8, 8)), np.array([1, 7])
    lowered = lowered_flow("objective={kind: flow_likelihood, latent_norm: 0.25, std: 0.1, levels: 17}", PLAIN)
    weights = random_weights(lowered)
    inputs = {"x": x, "y": y, "noise": np.zeros_like(x), "drop": np.ones(2)}
    losses, between = [], [x]
    for weight in (0, 0.25):
        one = lowered_flow(f"objective={{kind: flow_likelihood, latent_norm: {weight}, std: 0.1, levels: 17}}", PLAIN)
        losses.append(interpreter(one, weights).run("loss", *_ordered(one, "loss", inputs))[0].mean())
    for depths in ("[1, 0, 0]", "[1, 1, 0]"):
        leading = interpreter(lowered_flow(f"backbone.depths={depths}", PLAIN), weights, prefix="")
        between.append(leading.run("main.forward", x, y)[0])
    np.testing.assert_allclose(losses[1] - losses[0], 0.25 * sum((z**2).mean() for z in between), rtol=1e-6)


def test_normalised_branches_forget_the_scale_of_their_last_layer() -> None:
    norm = "backbone.block.condition={kind: in_context, branch_norm: {kind: rms_norm, eps: 1e-12}}"
    lowered = lowered_flow(norm, PLAIN)
    weights = random_weights(lowered)
    scaled = {name: a * (3 if ".attn.proj." in name or ".fc2." in name else 1) for name, a in weights.items()}
    without = {name: a * (not name.endswith(("attn_norm.weight", "mlp_norm.weight"))) for name, a in weights.items()}
    given = np.random.default_rng(0).standard_normal((2, 1, 8, 8)), np.array([1, 7])
    first, second, third = (
        interpreter(lowered, w, prefix="").run("main.forward", *given)[0] for w in (weights, scaled, without)
    )
    np.testing.assert_allclose(second, first, atol=1e-9)
    assert np.abs(third - first).max() > 1e-4


def test_guidance_of_a_flow_without_conditions() -> None:
    """Away from the same flow at another temperature; a scale of 1 is the flow as it is."""
    guided = "sampler={kind: flow_inverse, guidance: {scale: 2}, attention_temperature: 1.5, denoise: 0}"
    lowered = lowered_flow("backbone.conditions=[]", guided)
    weights = random_weights(lowered)
    oracle = interpreter(lowered, weights)
    z = np.random.default_rng(0).standard_normal((2, 16, 4))
    (plain,) = interpreter(lowered, weights, prefix="").run("main.inverse", z)
    (same,) = oracle.run("sample.16", z, np.array([1.0, 1.0]))
    (other,) = oracle.run("sample.16", z, np.array([2.0, 2.0]))
    np.testing.assert_allclose(same, plain, atol=1e-9)
    assert np.abs(other - plain).max() > 1e-5


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("onnxruntime", []),
        ("openvino", ["backbone.flows=2"]),
        ("onnxruntime", ["backbone.scale=none"]),
        # The one flow is handed rotary tables as they are stored.
        ("openvino", [*GUIDED["densities"], "backbone.flows=1", JACOBI]),
    ],
    ids=["onnxruntime", "openvino", "shifts", "jacobi"],
)
def test_engines_in_every_form(engine: str, options: list[str], tmp_path: Path) -> None:
    lowered = lowered_flow(*options)
    own = positive(random_weights(lowered, std=0.05))
    weights = {name: a.astype(np.float32) for name, a in own.items()}
    write_safetensors(tmp_path / "w.safetensors", {name: Array(a) for name, a in weights.items()})
    asked: dict[str, Any] = {"classes": [3, 9], "seeds": [0, 1]}
    found = []
    early = any("threshold" in option for option in options)  # loops that may end are not written out
    for form in ("unroll", "loop", "host")[early:]:
        bundle = tmp_path / form
        api.compile(
            "digits_tarflow",
            tmp_path / "w.safetensors",
            bundle,
            overrides=[*TINY, *options, f"target.engine={engine}"],
            form=form,  # type: ignore[arg-type]
            run=False,
        )
        pipe = latentc_runtime.load(bundle, device="cpu")
        found.append(pipe.sample(**asked))
        told = {"x": found[0], "class": np.array([3, 9])}
        log_p = pipe.sample(conditions=told, program="log_likelihood")
        x = found[0].astype(np.float64)
        (expected, _) = interpreter(lowered, weights).run("log_likelihood", x, np.array([3, 9]))
        assert error(log_p, expected) < 1e-5
    assert all(error(one, found[0]) < 1e-5 for one in found)


def test_control_the_inverse_of_another_class_is_another() -> None:
    lowered = lowered_flow(PLAIN)
    oracle = interpreter(lowered, random_weights(lowered), prefix="")
    z = np.random.default_rng(0).standard_normal((1, 16, 4))
    (x,) = oracle.run("main.inverse", z, np.array([1]))
    again, _ = oracle.run("main.forward", x, np.array([2]))
    assert np.abs(again - z).max() > 1e-3
