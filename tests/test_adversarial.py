"""A generator against a discriminator: the losses, who learns from them, what a step writes, what is compiled."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from parity_data import SIZES, error, load

import latentc_runtime
from latentc import api
from latentc.checkpoint import arrays, network_weights
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_files
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ["networks.main.width=8", "networks.discriminator.width=8"]
LOSSES = ("hinge", "non_saturating", "least_squares", "wasserstein")
DISCRIMINATOR = "official.safetensors"


@cache
def lowered(loss: str = "hinge") -> tuple[Any, Lowered]:
    spec = load_spec("digits_biggan", overrides=[*SMALL, f"objective.terms=[{loss}]"])
    return spec, lower(spec)


def weights_of(low: Lowered) -> dict[str, np.ndarray]:
    """Both networks' weights as they start, but with no bias or gain at zero."""
    rng = np.random.default_rng(0)
    found = {}
    for name, net in low.networks.items():
        for path, p in parameters(low.module, net.methods["forward"].function).items():
            shape = tuple(int(d) for d in p.type.shape)
            value = INITS[p.init.kind](rng, shape, **p.init.args)
            found[f"{name}.{path}"] = value if value.any() else 0.1 * rng.standard_normal(shape)
    return found


def request(low: Lowered, batch: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    forward = low.networks["main"].methods["forward"]
    of_x, of_z = ([int(d) for d in port.type.shape[1:]] for port in (forward.output(), forward.input("noise")))
    return {
        "x": rng.standard_normal((batch, *of_x)),
        "y": rng.integers(0, 10, batch),
        "z": rng.standard_normal((batch, *of_z)),
        "labels": rng.integers(0, 10, batch),
    }


def plain(loss: str, data: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The discriminator's loss and the generator's of scores [B, 1], by PyTorch's own losses."""
    ones, zeros = torch.ones_like(data), torch.zeros_like(data)
    if loss == "hinge":
        # Of targets -1 it is max(0, 1 - s).
        of_data, of_samples = (F.hinge_embedding_loss(s, -ones) for s in (data, -samples))
        return of_data + of_samples, -samples.mean()
    if loss == "non_saturating":
        bce = F.binary_cross_entropy_with_logits
        return bce(data, ones) + bce(samples, zeros), bce(samples, ones)
    if loss == "wasserstein":
        return samples.mean() - data.mean(), -samples.mean()
    return (F.mse_loss(data, ones) + F.mse_loss(samples, zeros)) / 2, F.mse_loss(samples, ones) / 2


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_pytorchs(loss: str) -> None:
    _, low = lowered(loss)
    given, oracle = request(low), Interpreter(low.module, weights_of(low))
    (fake,) = oracle.run(low.networks["main"].methods["forward"].function, given["z"], given["labels"], prefix="main")
    score = low.networks["discriminator"].methods["forward"].function
    data, samples = (
        torch.from_numpy(oracle.run(score, images, classes, prefix="discriminator")[0])
        for images, classes in ((given["x"], given["y"]), (fake, given["labels"]))
    )
    wanted, of_generator = plain(loss, data, samples)
    found = oracle.run("loss.discriminator", *given.values())
    middle = 0.5 if loss == "least_squares" else 0.0
    right = ((data > middle).double().mean(), (samples < middle).double().mean())
    assert np.allclose(found, [wanted, *(() if loss == "wasserstein" else right)], rtol=1e-12)
    assert np.allclose(oracle.run("loss.generator", given["z"], given["labels"]), of_generator, rtol=1e-12)


@pytest.mark.parametrize("multiple", [1, 2])
def test_the_generator_has_a_batch_of_its_own(multiple: int, tmp_path: Path) -> None:
    """The authors of WGAN-GP draw twice as many samples for a step of the generator as for one of the critic."""
    spec = load_spec("digits_biggan", overrides=[*SMALL, f"objective.generator_batch={multiple}"])
    with emitted(lower(spec), spec, tmp_path / "project") as project:
        sizes = {
            update.trained: {name: len(value) for name, value in update.draws(6, torch.Generator()).items()}
            for update in project.objective.UPDATES
        }
    assert sizes[("discriminator",)] == {"z": 6, "labels": 6}
    assert sizes[("main",)] == {"z": 6 * multiple, "labels": 6 * multiple}


def in_float64(project: SimpleNamespace, weights: dict[str, np.ndarray]) -> dict[str, torch.nn.Module]:
    nets = {name: build().double() for name, build in project.model.NETWORKS.items()}
    for name, net in nets.items():
        own = {k.removeprefix(f"{name}."): torch.tensor(v) for k, v in weights.items() if k.startswith(f"{name}.")}
        net.load_state_dict({k: own.get(k, v) for k, v in net.state_dict().items()})
    return nets


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("loss", LOSSES)
def test_emitted_losses_are_the_interpreters(loss: str, training: bool, tmp_path: Path) -> None:
    spec, low = lowered(loss)
    given, weights = request(low), weights_of(low)
    tensors = {k: torch.tensor(v) for k, v in given.items()}
    with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
        for update in dict.fromkeys(project.objective.UPDATES):
            nets = in_float64(project, weights)
            models = [nets[name].train(training) for name in update.networks]
            inputs = {k: v for k, v in tensors.items() if k in (*update.batch, "z", "labels")}
            # Its accuracies are f32 in the text.
            found = update.loss(*models, **inputs)
            oracle = Interpreter(low.module, weights, training=training)
            wanted = oracle.run(f"loss.{update.metrics[0].split('/')[0]}", *inputs.values())
            for a, e in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
                assert abs(float(a) - float(e)) < 1e-6
            assert training == bool(oracle.written)
            for path, value in oracle.written.items():  # running statistics, vectors of spectral norms
                name, _, own = path.partition(".")
                assert error(nets[name].state_dict()[own].numpy(), value) < 1e-9, path


@pytest.mark.parametrize("name", ["model.py", "objective.py"])
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    spec, low = lowered()
    golden(f"emit/digits-biggan/{name}.txt", project_files(low, spec)[name])


def test_each_player_learns_from_its_own_loss(tmp_path: Path) -> None:
    """A discriminator's step leaves the generator's weights alone and the other way round; state is written in both."""
    spec, low = lowered()
    with emitted(low, spec, tmp_path / "project") as project:
        train = importlib.import_module("train")
        config = importlib.import_module("latentc_support.config").load_config(["--batch_size", "8"])["train"]
        updates = project.objective.UPDATES
        assert [u.trained for u in updates] == [("discriminator",), ("discriminator",), ("main",)]
        run = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"), parallel="none")
        torch.manual_seed(0)
        nets = {name: build() for name, build in project.model.NETWORKS.items()}
        batch = {"x": torch.randn(8, 1, 8, 8), "y": torch.arange(8)}
        every = {name: train.make_optimizer(net, train.settings_of(name, config)) for name, net in nets.items()}
        for turn in (1, 2):
            update = updates[turn]
            optimizers = {name: every[name] for name in update.trained}
            before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in nets.items()}
            data = batch if update.batch else {}
            state = train.State(nets, {}, optimizers)
            metrics = train.train_step(update, state, nets, data, config, train.Turn(0, turn, 1.0), run)
            assert len(metrics) == len(update.metrics) + 1 and metrics[-1] > 0  # and the norm of the gradient
            for name, net in nets.items():
                weights = dict(net.named_parameters())
                for key, value in net.state_dict().items():
                    moved = not torch.equal(value, before[name][key])
                    if key in weights:
                        assert moved == (name in update.trained and key != "gamma"), (name, key)
                    elif value.numel() > 1:  # of one number the vector of a spectral norm is a sign
                        assert moved, (name, key)
            (optimizer,) = optimizers.values()
            assert optimizer.param_groups[0]["lr"] == (1e-3 if turn == 1 else 5e-4)


# ---- the authors' discriminator


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx"])
def test_discriminator(backend: Any, tmp_path: Path) -> None:
    numbers = load("biggan.D")
    write_safetensors(tmp_path / DISCRIMINATOR, {n: Array(a) for n, a in numbers.weights.items()})
    weights = [f"discriminator={tmp_path / DISCRIMINATOR}"]
    arguments = {"overrides": SIZES["biggan_train"], "names": "official", "network": "discriminator"}
    out = api.forward("biggan_train", weights, numbers.inputs, backend, **arguments)
    assert error(out, numbers.outputs["out"]) < 1e-5


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_discriminator_in_training(backend: str, tmp_path: Path) -> None:
    """Its score, and the vectors that spectral norms leave for the next step."""
    numbers = load("biggan.D_train")
    write_safetensors(tmp_path / DISCRIMINATOR, {n: Array(a) for n, a in numbers.weights.items()})
    spec = load_spec("biggan_train", None, SIZES["biggan_train"])
    low = lower(spec)
    files = [f"discriminator={tmp_path / DISCRIMINATOR}"]
    weights = arrays(network_weights(spec, low, files, "official", networks=["discriminator"])["discriminator"])
    x, y = (numbers.inputs[name] for name in ("x", "y"))
    if backend == "oracle":
        oracle = Interpreter(low.module, weights, training=True)
        (out,) = oracle.run(low.networks["discriminator"].methods["forward"].function, x, y)
        after = oracle.written
    else:
        with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
            net = project.model.NETWORKS["discriminator"]().train()
            net.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in weights.items()})
            out = net(torch.from_numpy(x), torch.from_numpy(y)).numpy()
            after = {n: v.numpy() for n, v in net.state_dict().items()}
    assert error(out, numbers.outputs["out"]) < 1e-5
    official = {n: a for n, a in numbers.after.items() if n.endswith("u0")}
    for name, vector in official.items():
        i, _, rest = name.removeprefix("blocks.").partition(".")
        place = {"0": f"blocks.{i}.", "1": f"attention.{i}."}.get(rest[:1], "") if name[0] == "b" else ""
        own = (place + rest[2:] if place else name).replace("u0", "u")
        assert error(after[own], vector.ravel()) < 1e-4, name


# ---- what is compiled


def test_the_discriminator_is_not_needed_to_compile(tmp_path: Path) -> None:
    _, low = lowered()
    weights = {n: a.astype(np.float32) for n, a in weights_of(low).items()}
    main = {n.removeprefix("main."): Array(a) for n, a in weights.items() if n.startswith("main.")}
    write_safetensors(tmp_path / "main.safetensors", main)
    write_safetensors(tmp_path / "both.safetensors", {n: Array(a) for n, a in weights.items()})
    samples = []
    for given in (tmp_path / "main.safetensors", tmp_path / "both.safetensors", [f"main={tmp_path}/main.safetensors"]):
        api.compile("digits_biggan", given, tmp_path / "bundle", overrides=SMALL, rebuild=True)
        samples.append(latentc_runtime.load(tmp_path / "bundle", device="cpu").sample([1, 2], seeds=[0, 1]))
    assert all(np.array_equal(other, samples[0]) for other in samples)
    quantised = [*SMALL, "optimize.quantize.scheme=int8_weights"]
    manifest = api.compile("digits_biggan", given, tmp_path / "quantised", overrides=quantised, force=True)
    assert manifest.quantization is not None and manifest.quantization.layers > 0
    with pytest.raises(DiagnosticError, match="generators run once"):
        api.compile("digits_biggan", given, tmp_path / "steps", overrides=SMALL, steps=(4,))
    with pytest.raises(DiagnosticError, match="E0415"):
        api.compile("digits_biggan", [f"discriminator={tmp_path}/both.safetensors"], tmp_path / "b", overrides=SMALL)


def test_a_generator_drops_no_class() -> None:
    with pytest.raises(DiagnosticError, match="always knows the class"):
        load_spec("digits_biggan", None, ["conditioning.class.dropout=0.1"])


def test_a_network_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match="no network `critic`"):
        api.forward("digits_biggan", tmp_path / "none.safetensors", {}, network="critic")
