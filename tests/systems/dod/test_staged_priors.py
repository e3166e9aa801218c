"""Stages and levels in one program: DoD and nested diffusion, against loops written from their papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc.components.contract import Lowered
from latentc.datasets import open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

Array = np.ndarray
STEPS, SCALE = 3, 1.5
DOD = [
    *("networks.main.width=16", "networks.main.depth=1", "networks.main.block.mixer.heads=2"),
    *("networks.embedder.width=16", "networks.embedder.depth=1", "conditioning.time.frequencies=16"),
    f"sampler.sampler.steps={STEPS}",
]
NESTED = [
    *(
        f"networks.{n}.{size}"
        for n in ("main", "of_quarters")
        for size in ("width=16", "depth=1", "block.mixer.heads=2")
    ),
    *("networks.of_whole.width=16", "networks.of_whole.depth=1", "networks.of_whole.time_width=16"),
    *("networks.of_whole.context=8", "conditioning.time.frequencies=16", f"sampler.steps={STEPS}"),
    *(f"conditioning.{n}.prior.sampler.steps={STEPS}" for n in ("whole", "quarters")),
]
RNG = np.random.default_rng(0)


def with_weights(name: str, overrides: list[str]) -> tuple[Lowered, dict[str, Array]]:
    """A lowered spec and random weights of all its networks, buffers as they are."""
    from latentc.checkpoint import network_params
    from latentc.ir.inits import INITS

    low, weights = lower(load_spec(name, overrides=overrides)), dict[str, Array]()
    for network in low.networks.values():
        for path, param in network_params(low, network).items():
            shape = tuple(int(d) for d in param.type.shape)
            fixed = param.kind == "buffer"
            made = INITS[param.init.kind](RNG, shape, **param.init.args) if fixed else 0.2 * RNG.standard_normal(shape)
            weights[f"{network.name}.{path}"] = made
    return low, weights


def euler(velocity: Callable[[Array, Array], Array], x: Array) -> Array:
    """x from noise (t = 0) to data (t = 1) in equal steps."""
    for i in range(STEPS):
        x = x + velocity(x, np.full(len(x), i / STEPS)) / STEPS
    return x


def caller(low: Lowered, weights: dict[str, Array]) -> Callable[..., Array]:
    """Calls a method of a network by its names, in float64."""
    oracle = Interpreter(low.module, weights)

    def call(network: str, method: str, *operands: Array) -> Array:
        (out,) = oracle.run(low.networks[network].methods[method].function, *operands, prefix=network)
        return out

    return call


def test_the_stages_of_dod_are_those_of_the_paper() -> None:
    """x1 ~ p(. | class, nothing); x2 ~ p(. | class, E(x1)), each under classifier-free guidance."""
    low, weights = with_weights("digits_dod", DOD)
    program, call = low.programs[0], caller(low, weights)
    x1, x2, y = RNG.standard_normal((2, 1, 8, 8)), RNG.standard_normal((2, 1, 8, 8)), np.array([3, 7])
    nothing, nobody = np.zeros((2, 32 // 2, 4, 4)), np.full(2, 10)

    def stage(x: Array, visual: Array) -> Array:
        def velocity(x: Array, t: Array) -> Array:
            told, untold = call("main", "forward", x, t, y, visual), call("main", "forward", x, t, nobody, nothing)
            return untold + SCALE * (told - untold)

        return euler(velocity, x)

    wanted = stage(x2, call("embedder", "encode", stage(x1, nothing)))
    given = {"x": x1, "x_2": x2, "y": y, "scale": np.full(2, SCALE)}
    inputs = [given[v.name] for v in low.module.entry(program.entry).inputs]
    (made,) = Interpreter(low.module, weights).run(program.entry, *inputs)
    np.testing.assert_allclose(made, wanted, rtol=1e-9, atol=1e-9)
    assert program.evaluations == 2 * STEPS
    assert [c.name for c in low.conditions] == ["class"]  # a request does not give the sample before


def test_the_module_of_dod_is_a_transformer_around_a_bottleneck() -> None:
    """The same network in a few lines of PyTorch."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    low, weights = with_weights("digits_dod", DOD)
    w = {name.removeprefix("embedder."): torch.from_numpy(a) for name, a in weights.items() if "embedder." in name}
    x = RNG.standard_normal((2, 1, 8, 8))

    def block(x: Any, name: str) -> Any:
        h = F.layer_norm(x, (16,), w[f"{name}.norm1.weight"], w[f"{name}.norm1.bias"], 1e-6)
        qkv = F.linear(h, w[f"{name}.attn.qkv.weight"], w[f"{name}.attn.qkv.bias"])
        q, k, v = qkv.reshape(2, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        h = (torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(h, w[f"{name}.attn.proj.weight"], w[f"{name}.attn.proj.bias"])
        h = F.layer_norm(x, (16,), w[f"{name}.norm2.weight"], w[f"{name}.norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, w[f"{name}.mlp.fc1.weight"], w[f"{name}.mlp.fc1.bias"]), approximate="tanh")
        return x + F.linear(h, w[f"{name}.mlp.fc2.weight"], w[f"{name}.mlp.fc2.bias"])

    h = F.conv2d(torch.from_numpy(x), w["patches.weight"], w["patches.bias"], stride=2)
    h = block(h.flatten(2).transpose(1, 2) + w["pos_embed"], "encoder.0")
    h = F.layer_norm(h, (16,), w["encoder_norm.weight"], w["encoder_norm.bias"], 1e-6)
    h = F.avg_pool2d(h.transpose(1, 2).reshape(2, 16, 4, 4), 2)
    code = F.conv2d(h, w["down.weight"][..., None, None], w["down.bias"])
    assert code.shape == (2, 4, 2, 2)  # all that the decoder sees
    h = F.interpolate(F.conv2d(code, w["up.weight"][..., None, None], w["up.bias"]), scale_factor=2)
    h = block(h.flatten(2).transpose(1, 2) + w["pos_embed"], "decoder.0")
    h = F.layer_norm(h, (16,), w["decoder_norm.weight"], w["decoder_norm.bias"], 1e-6)
    wanted = h.transpose(1, 2).reshape(2, 16, 4, 4).numpy()
    np.testing.assert_allclose(caller(low, weights)("embedder", "encode", x), wanted, rtol=1e-6, atol=1e-6)


def test_every_level_of_nested_diffusion_is_told_those_before() -> None:
    """whole ~ p(.), quarters ~ p(. | whole), x ~ p(. | whole, quarters), the last under guidance."""
    low, weights = with_weights("digits_nested", NESTED)
    program, call, y = low.programs[0], caller(low, weights), np.array([3, 7])
    start = {"whole_x": RNG.standard_normal((2, 8)), "quarters_x": RNG.standard_normal((2, 4, 2, 2))}
    start["x"] = RNG.standard_normal((2, 1, 8, 8))
    whole = euler(lambda x, t: call("of_whole", "forward", x, t, y), start["whole_x"])
    quarters = euler(lambda x, t: call("of_quarters", "forward", x, t, y, whole), start["quarters_x"])

    def velocity(x: Array, t: Array) -> Array:
        told = call("main", "forward", x, t, y, whole, quarters)
        untold = call("main", "forward", x, t, np.full(2, 10), 0 * whole, 0 * quarters)
        return untold + SCALE * (told - untold)

    wanted, given = euler(velocity, start["x"]), {**start, "y": y, "scale": np.full(2, SCALE)}
    inputs = [given[v.name] for v in low.module.entry(program.entry).inputs]
    (made,) = Interpreter(low.module, weights).run(program.entry, *inputs)
    np.testing.assert_allclose(made, wanted, rtol=1e-9, atol=1e-9)


def test_the_levels_of_digits_are_principal_components() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    spec = load_spec("digits_nested", overrides=["data.part=all"])
    data = open_dataset(spec.data.settings())
    rows = data.rows(np.arange(1797))
    images = rows["x"].reshape(-1, 8, 8)
    wanted = decomposition.PCA(8).fit_transform(images.reshape(-1, 64))
    close = np.abs(rows["whole"]) - np.abs(wanted / wanted.std())  # the sign of an axis is a convention
    assert np.abs(close).max() < 1e-3
    squares = images.reshape(-1, 2, 4, 2, 4).swapaxes(2, 3).reshape(-1, 16)
    wanted = decomposition.PCA(4).fit_transform(squares).reshape(-1, 2, 2, 4).transpose(0, 3, 1, 2)
    assert np.abs(np.abs(rows["quarters"]) - np.abs(wanted / wanted.std())).max() < 1e-3
    noisy = data.rows(np.arange(1797), np.random.default_rng(0))
    assert abs((noisy["whole"] - rows["whole"]).std() - 0.1) < 0.01 and np.array_equal(noisy["x"], rows["x"])


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        ("digits_dod", ["sampler.condition=class"], "condition `class` is not encoded from the samples"),
        ("digits_dod", ["sampler.condition=visible"], "condition `visible` does not exist"),
        ("digits_dod", ["conditioning.visual.dropout=0"], "the first stage samples without `visual`"),
        ("digits_dod", ["sampler.sampler={kind: staged, condition: visual}"], "`staged`"),
        (
            "digits_dod",
            ["programs=[annealing]"],
            "whole arrays step by step, but `staged`",
        ),
        ("digits_dod", ["sampler.sampler={kind: probability_flow, likelihood: {}}"], "`likelihood` needs a sampler"),
        ("digits_dod", ["objective.coupling={kind: upsampled}"], "starts from noise, but with this coupling"),
        ("digits_dod", ["networks.embedder.pool=3"], "squares of 3 patches of 2 do not tile 8 by 8"),
        ("digits_dod", ["sampler.sampler={kind: ddpm, respacing: '9'}"], "`respacing` needs a discrete schedule"),
        ("digits_nested", ["data.fields.quarters.shape=[4, 3, 3]"], "`quarters` of shape [4, 3, 3] cannot be computed"),
        ("digits_nested", ["data.fields.y={classes: 10, noise: 0.1}"], "noise cannot be added to integers"),
        (
            "digits_dit",
            ["data={kind: huggingface, path: d, fields: {x: {shape: [1, 8, 8], noise: 1}}}"],
            "cannot have noise",
        ),
    ],
)
def test_what_does_not_fit_is_said(spec: str, overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec(spec, overrides=overrides)
    assert any(message in d.message for d in error.value.diagnostics), [d.message for d in error.value.diagnostics]


@pytest.mark.parametrize(("spec", "overrides"), [("digits_dod", DOD), ("digits_nested", NESTED)])
def test_every_form_of_the_loops_draws_the_same(spec: str, overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from bundles import tiny_bundle

    from latentc_runtime import load

    made = [
        load(tiny_bundle(spec, tmp_path / form, overrides, form=form)).sample([1, 8], seeds=3)
        for form in ("unroll", "loop", "host")
    ]
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], rtol=1e-4, atol=1e-4)


def test_the_stages_have_the_methods_that_their_guidance_calls() -> None:
    low = lower(load_spec("digits_dod", overrides=[*DOD, "sampler.sampler.guidance={kind: self_attention, kernel: 3}"]))
    assert "forward_attention" in low.networks["main"].methods


def test_parameters_of_the_stages_are_shared() -> None:
    low = lower(load_spec("digits_dod", overrides=[*DOD, "sampler.stages=4"]))
    names = set(parameters(low.module, low.module.entries["sample.3"]))
    assert {name.partition(".")[0] for name in names} == {"main", "embedder"}
    assert low.programs[0].evaluations == 4 * STEPS and len(low.programs[0].sources) == 4 + 2


def test_what_is_encoded_from_the_sample_needs_stages() -> None:
    system = SYSTEMS["dod"]
    with pytest.raises(DiagnosticError, match="which `ddim` has yet to draw"):
        load_spec(system.spec, system.variant, [*system.sizes, "sampler={kind: ddim, steps: 3}"])


def test_inputs_of_stages_have_their_names_on_a_process_that_scales_them() -> None:
    system = SYSTEMS["dod"]
    lowered = lower(load_spec(system.spec, system.variant, [*system.sizes, "objective.process={kind: ve}"]))
    (program,) = lowered.programs
    assert {value.name for value in lowered.module.entry(program.entry).inputs} == set(program.sources)
