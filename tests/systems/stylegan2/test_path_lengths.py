"""StyleGAN2's generator in training: lengths of paths and their gradient against the authors', mixed styles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_data import error, load

from latentc.checkpoint import network_params, network_weights
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, materialise, write_safetensors

SIZES = (
    *("data.shape=[3, 16, 16]", "data.classes=10", "backbone.channel_base=256", "backbone.channel_max=32"),
    *("backbone.latent_dim=16", "backbone.style_dim=16", "backbone.mapping_layers=2", "backbone.mixing=0.9"),
    "backbone.style_decay=0.998",  # that of the recorded code
    "networks.discriminator={kind: style_discriminator, channel_base: 64, channel_max: 8, conditions: []}",
    "objective={kind: adversarial, terms: [non_saturating, path_lengths]}",
)
NUMBERS = load("san.path_lengths")
LOSS = "loss.path_lengths_1"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """(spec, lowered, weights of the generator under our names, the average length at 0.7)."""
    spec = load_spec("stylegan2", None, list(SIZES))
    lowered = lower(spec)
    file = tmp_path_factory.mktemp("stylegan2") / "official.safetensors"
    write_safetensors(file, {name: Array(array) for name, array in NUMBERS.weights.items()})
    own = network_weights(spec, lowered, [f"main={file}"], "official", None, ["main"])["main"]
    weights = {name: np.asarray(materialise(tensor)) for name, tensor in own.items()}
    return spec, lowered, {**weights, "path_length": np.full(1, 0.7, np.float32)}


def given(lowered: Any, weights: dict[str, np.ndarray], names: list[str], count: int) -> list[np.ndarray]:
    """The inputs of a loss by name; noise images are the generator's own for every sample."""
    inputs = {**NUMBERS.inputs, "labels": NUMBERS.inputs["y"]}
    inputs |= {f"noise_{i}": np.tile(weights[f"noise_{i}"], (count, 1, 1, 1)) for i in range(5)}
    return [inputs[name] for name in names]


def test_the_penalty_is_the_authors(system: tuple[Any, Any, dict[str, np.ndarray]]) -> None:
    _, lowered, weights = system
    names = [v.name for v in lowered.module.entry(LOSS).inputs]
    oracle = Interpreter(lowered.module, {f"main.{name}": array for name, array in weights.items()})
    found = oracle.run(LOSS, *given(lowered, weights, names, 4))
    for ours, name in zip(found, ("loss", "penalty", "length"), strict=True):
        assert error(ours, NUMBERS.outputs[f"out.{name}"]) < 1e-5, name


def test_the_emitted_loss_has_the_authors_gradient(
    system: tuple[Any, Any, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """It reaches the mapping network, and moves the average length and the average style as theirs."""
    torch = pytest.importorskip("torch")
    from emitted import emitted

    spec, lowered, weights = system
    with emitted(lowered, spec, tmp_path / "project") as project:
        model = project.model.NETWORKS["main"]().train()
        model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        names = [v.name for v in lowered.module.entry(LOSS).inputs]
        inputs = dict(zip(names, map(torch.from_numpy, given(lowered, weights, names, 4)), strict=True))
        loss, *_ = project.objective.UPDATES[-1].loss(model, **inputs)
        loss.backward()
        got = dict(model.named_parameters())
        ours = {"mapping.fc0": "mapping.layers.0", "synthesis.b4.const": "const", "synthesis.b8": "blocks.1"}
        ours |= {"synthesis.b16": "blocks.2"}
        found = [name.removeprefix("out.gradient.") for name in NUMBERS.outputs if "gradient" in name]
        assert len(found) == 7
        for name in found:
            own = next((name.replace(theirs, our) for theirs, our in ours.items() if name.startswith(theirs)), name)
            wanted = NUMBERS.outputs[f"out.gradient.{name}"]
            wanted = wanted.T if name == "mapping.embed.weight" else wanted
            assert error(got[own].grad, wanted) < 1e-4, name
        state = model.state_dict()
    assert error(state["mapping.w_avg"], NUMBERS.after["mapping.w_avg"]) < 1e-4
    length = 0.99 * 0.7 + 0.01 * NUMBERS.outputs["out.length"]
    assert state["path_length"].item() == pytest.approx(float(length), rel=1e-6)


def test_layers_behind_a_random_one_have_the_other_style(system: tuple[Any, Any, dict[str, np.ndarray]]) -> None:
    _, lowered, weights = system
    every = {f"main.{name}": array for name, array in weights.items()} | weights
    oracle = Interpreter(lowered.module, every)
    styles = lowered.networks["main"].methods["styles"].function
    rng = np.random.default_rng(0)
    z, other, y = rng.standard_normal((5, 16)), rng.standard_normal((5, 16)), np.arange(5)
    mix = np.array([[0.5, 0.0], [0.5, 0.999], [0.95, 0.0], [0.0, 0.5], [0.89, 0.21]])
    ws = np.asarray(oracle.run(styles, z, other, mix, y, prefix="main")[0])
    own, theirs = (np.asarray(oracle.run("main.map", v, y)[0]) for v in (z, other))
    firsts = []
    for i in range(5):
        of_own = [np.allclose(w, own[i], atol=1e-6) for w in ws[i]]
        assert [np.allclose(w, theirs[i], atol=1e-6) for w in ws[i]] == [not own for own in of_own]
        assert of_own == sorted(of_own, reverse=True)
        firsts.append(sum(of_own))
    assert firsts == [1, 5, 6, 3, 2]  # of 6 layers, those with the own style


def test_what_is_refused() -> None:
    sides = ["data.shape=[3, 12, 12]"]
    with pytest.raises(DiagnosticError, match="takes sides that are powers of 2 of at least 4, not 12"):
        load_spec("stylegan2", None, [*SIZES, *sides, "networks.discriminator={kind: equalised_discriminator}"])
    with pytest.raises(DiagnosticError, match="leaves no channels at a side of 8"):
        load_spec("digits_biggan", None, ["networks.discriminator={kind: equalised_discriminator, channel_base: 4}"])
    with pytest.raises(DiagnosticError, match="48 samples at a time are no multiple of 32") as refused:
        load_spec("stylegan2", None, ["train.batch_size=96", "train.accumulate=2"])
    assert refused.value.diagnostics[0].help == "use 24, or change `train.batch_size`"
    with pytest.raises(DiagnosticError, match="turns noise into a style"):
        load_spec("digits_biggan", None, ["objective.terms=[hinge, path_lengths]"])
    with pytest.raises(DiagnosticError, match=r"none of `objective\.terms` trains the generator"):
        load_spec("stylegan2", None, [*SIZES, "objective.terms=[path_lengths]"])


def test_the_deviation_is_that_of_a_group() -> None:
    """A score depends on the samples of its group; the last group may have fewer."""
    sizes = ["networks.discriminator={kind: equalised_discriminator, channel_base: 16, deviation_group: 2}"]
    lowered = lower(load_spec("stylegan2", None, [*SIZES, *sizes, "data.shape=[3, 8, 8]"]))
    rng, discriminator = np.random.default_rng(0), lowered.networks["discriminator"]
    shapes = {path: p.type.shape for path, p in network_params(lowered, discriminator).items()}
    weights = {f"discriminator.{n}": rng.standard_normal([int(d) for d in s]) for n, s in shapes.items()}
    oracle = Interpreter(lowered.module, weights)

    def scores(x: np.ndarray) -> np.ndarray:
        forward = discriminator.methods["forward"].function
        return np.asarray(oracle.run(forward, x, np.arange(5), prefix="discriminator")[0])[:, 0]

    x = rng.standard_normal((5, 3, 8, 8))
    before = scores(x)
    x[3] += 1.0
    assert (scores(x) != before).tolist() == [False, False, True, True, False]


def test_updates_of_paths_are_lazy(system: tuple[Any, Any, dict[str, np.ndarray]]) -> None:
    _, lowered, _ = system
    update = lowered.updates[-1]
    assert (update.loss, update.networks, update.every, update.batch) == (LOSS, ("main",), 4, ())
    drawn = [draw.name for draw in update.draws]
    assert drawn == ["z", "z_other", "mix", *(f"noise_{i}" for i in range(5)), "labels", "direction"]
    assert load_spec("stylegan2").networks["main"].style_decay == 0.995  # StyleGAN2's own
    without = lower(load_spec("stylegan2", None, [*SIZES, "backbone.mixing=0"]))
    assert [draw.name for draw in without.updates[0].draws][:2] == ["z", "noise_0"]
