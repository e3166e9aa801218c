"""Pix2NeRF beside its recordings: points without noise, discriminator and encoder, losses, programs, refusals."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from emitted import emitted
from random_weights import weights_of

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.pix2nerf.camera import Camera
from latentc.systems.pix2nerf.image_to_field import similarity

TINY = (
    "data.shape=[3, 4, 4]",
    *(f"networks.main.{size}" for size in ("width=6", "depth=2", "mapping_width=8", "points=4")),
)
TINY = (
    *TINY,
    "networks.main.hierarchical=true",
    "networks.discriminator.widths=[4, 6]",
    "networks.encoder.widths=[4, 6]",
    "sampler.chunk=6",
)
RNG = np.random.default_rng(0)


@cache
def lowered(*more: str) -> Any:
    """The small spec, and its random weights."""
    low = lower(load_spec("boxes_pix2nerf", overrides=[*TINY, *more]))
    return low, weights_of(low, 0.2)


def run(method: str, *given: np.ndarray, more: tuple[str, ...] = ()) -> list[np.ndarray]:
    """The outputs of a method `NETWORK.METHOD`."""
    low, weights = lowered(*more)
    network = method.partition(".")[0]
    own = {path.removeprefix(f"{network}."): a for path, a in weights.items() if path.startswith(f"{network}.")}
    return [np.asarray(x) for x in Interpreter(low.module, own).run(method, *given)]


def given(count: int = 2) -> dict[str, np.ndarray]:
    """Latents, classes and cameras."""
    cameras = np.array([1.2, 1.57]) + RNG.uniform(-0.3, 0.3, (count, 2))
    return {"z": RNG.uniform(-1, 1, (count, 8)), "y": RNG.integers(0, 6, count), "camera": cameras}


def test_without_noise_points_are_in_the_middle_of_their_parts() -> None:
    known = given()
    middle = np.full((2, 16, 4), 0.5)
    further = np.broadcast_to((np.arange(4) + 0.5) / 4, (2, 16, 4))
    (one,) = run("main.forward", *known.values())
    none, conditions = np.zeros((2, 16, 8)), (known["y"], known["camera"])
    (other,) = run("main.train_forward", known["z"], middle, none[..., :4], further, none, *conditions)
    (moved,) = run("main.train_forward", known["z"], middle * 0.2, none[..., :4], further, none, *conditions)
    (denser,) = run("main.train_forward", known["z"], middle, none[..., :4], further, none + 5, *conditions)
    assert np.abs(denser - one).max() > 1e-3
    assert one.shape == (2, 3, 4, 4) and np.abs(one - other).max() < 1e-9 < np.abs(one - moved).max()
    assert one.std() > 0.01


def test_a_background_is_white_where_nothing_is() -> None:
    """Weights of the density are 0 and its bias is negative."""
    low, weights = lowered()
    own = {path.removeprefix("main."): a for path, a in weights.items() if path.startswith("main.")}
    own |= {"field.density.weight": np.zeros((1, 6)), "field.density.bias": np.array([-1.0])}
    (x,) = Interpreter(low.module, own).run("main.forward", *given().values())
    assert np.array_equal(x, np.ones_like(x))


def _trunk(x: torch.Tensor, own: dict[str, torch.Tensor]) -> torch.Tensor:
    """The authors' layers at 4 pixels per side: one block after the first layer."""
    line = torch.linspace(-1, 1, 4, dtype=torch.float64)

    def seen(h: torch.Tensor) -> torch.Tensor:
        at = line[: h.shape[2]] if h.shape[2] == 4 else torch.linspace(-1, 1, h.shape[2], dtype=torch.float64)
        rows, columns = torch.meshgrid(at, at, indexing="ij")
        return torch.cat([h, torch.stack([rows, columns]).expand(len(h), 2, -1, -1)], dim=1)

    h = F.leaky_relu(F.conv2d(x, own["enter.weight"], own["enter.bias"]), 0.2)
    first = F.leaky_relu(F.conv2d(seen(h), own["layers.0.conv1.weight"], own["layers.0.conv1.bias"], padding=1), 0.2)
    y = F.conv2d(seen(first), own["layers.0.conv2.weight"], own["layers.0.conv2.bias"], stride=2, padding=1)
    skip = F.conv2d(h, own["layers.0.skip.weight"], own["layers.0.skip.bias"], stride=2)
    return (F.leaky_relu(y, 0.2) + skip) / math.sqrt(2)


def test_the_discriminator_and_the_encoder_are_those_of_the_authors() -> None:
    """Written out in PyTorch; the authors have no class, whose embedding is projected and added here."""
    _, weights = lowered()
    x, y = RNG.standard_normal((2, 3, 4, 4)), np.array([3, 1])
    own = {
        n: {p.removeprefix(f"{n}."): torch.tensor(a) for p, a in weights.items() if p.startswith(f"{n}.")}
        for n in ("discriminator", "encoder")
    }
    score, camera = run("discriminator.forward", x, y)
    features = _trunk(torch.tensor(x), own["discriminator"])
    out = F.conv2d(features, own["discriminator"]["leave.weight"], own["discriminator"]["leave.bias"])[:, :, 0, 0]
    label = own["discriminator"]["y_embedder.weight"][torch.tensor(y)]
    wanted = out[:, :1] + (label * features.mean((2, 3))).sum(1, keepdim=True)
    assert np.abs(score - wanted.numpy()).max() < 1e-6 and np.abs(camera - out[:, 1:].numpy()).max() < 1e-6
    latent, camera = run("encoder.forward", x, y)
    features = (
        _trunk(torch.tensor(x), own["encoder"]) + own["encoder"]["y_embedder.weight"][torch.tensor(y)][:, :, None, None]
    )
    out = F.conv2d(features, own["encoder"]["leave.weight"], own["encoder"]["leave.bias"])[:, :, 0, 0]
    assert np.abs(latent - out[:, :8].tanh().numpy()).max() < 1e-6
    assert np.abs(camera - out[:, 8:].numpy()).max() < 1e-6 and np.abs(camera).max() > 0.01


def test_similarity_is_that_of_windows_written_out() -> None:
    one, other = RNG.uniform(-1, 1, (2, 2, 3, 5, 5))
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(similarity(b, b.input("one", f32(*one.shape)), b.input("other", f32(*one.shape))))
    b.finish()
    (found,) = Interpreter(mb.finish()).run("main", one, other)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    both, values = np.pad(np.stack([one, other]), [(0, 0)] * 3 + [(5, 5)] * 2), []
    for i in range(5):
        for j in range(5):
            a, b_ = both[..., i : i + 11, j : j + 11]
            (ma, mb_), (sa, sb) = ([(window * x**k).sum((-2, -1)) for x in (a, b_)] for k in (1, 2))
            shared = (window * a * b_).sum((-2, -1)) - ma * mb_
            spread = sa - ma**2 + sb - mb_**2
            values.append((2 * ma * mb_ + 1e-4) * (2 * shared + 9e-4) / ((ma**2 + mb_**2 + 1e-4) * (spread + 9e-4)))
    assert abs(found - np.mean(values)) < 1e-6


def losses(name: str, inputs: dict[str, np.ndarray], more: tuple[str, ...] = ()) -> dict[str, float]:
    """The metrics of an update by name."""
    low, weights = lowered(*more)
    update = next(update for update in low.updates if update.name == name)
    names = [value.name for value in low.module.entry(update.loss).inputs]
    found = Interpreter(low.module, weights).run(update.loss, *(inputs[name] for name in names))
    return dict(zip((metric.partition("/")[2] for metric in update.metrics), map(float, found), strict=True))


def test_losses_are_the_formulas_of_the_paper() -> None:
    """Each loss written out by the methods of the networks, and their weighted sums."""
    x, y, u = RNG.uniform(-1, 1, (2, 3, 4, 4)), np.array([0, 5]), RNG.uniform(0, 1, (2, 8))
    drawn, ports = RNG.uniform(0, 1, (2, 2)), lowered()[0].networks["main"].methods["train_forward"].inputs_of("noise")
    rays = {
        f"{port.name}_of_{of}": RNG.uniform(0, 1, (2, *port.type.shape[1:]))
        for port in ports[1:]
        for of in ("made", "again")
    }
    inputs: dict[str, Any] = {"x": x, "y": y, "u": u, "camera": drawn, **rays, "training_step": np.array(3)}
    camera, z = np.array([1.2, 1.5708]) + np.array([0.3, 0.7]) * (2 * drawn - 1), 2 * u - 1

    def made(z: np.ndarray, camera: np.ndarray, of: str) -> np.ndarray:
        each = (rays[f"{port.name}_of_{of}"] for port in ports[1:])
        shrunk = (x * (1 - 3 / 100) if "noise" in port.name else x for x, port in zip(each, ports[1:], strict=True))
        return run("main.train_forward", z, *shrunk, y, camera)[0]

    def softplus(x: np.ndarray) -> float:
        return float(np.log1p(np.exp(x)).mean())

    def square(x: np.ndarray) -> float:
        return float((x**2).mean())

    image = made(z, camera, "made")
    (of_data, _), (of_sample, found) = run("discriminator.forward", x, y), run("discriminator.forward", image, y)
    latent, seen_from = run("encoder.forward", image, y)
    opponents = losses("opponents", inputs)
    wanted = {"game": softplus(of_sample) + softplus(-of_data), "cameras": square(found - camera)}
    wanted |= {"encoder_latents": square(latent - z), "encoder_cameras": square(seen_from - camera)}
    for name, value in wanted.items():
        assert abs(opponents[name] - value) < 1e-6 * max(1, abs(value)), name
    total = wanted["game"] + 15 * wanted["cameras"] + wanted["encoder_latents"] + wanted["encoder_cameras"]
    assert abs(opponents["loss"] - total - 0.5 * opponents["penalty"]) < 1e-5 and opponents["penalty"] > 1e-6
    generator = losses("generator", inputs)
    assert abs(generator["game"] - softplus(-of_sample)) < 1e-6
    assert abs(generator["loss"] - softplus(-of_sample) - 15 * wanted["cameras"]) < 1e-5
    latent, own = run("encoder.forward", x, y)
    image, again = made(latent, camera, "made"), made(latent, own, "again")
    score, found = run("discriminator.forward", image, y)
    terms = losses("reconstruction", inputs)
    assert abs(terms["game"] - softplus(-score)) < 1e-6 and abs(terms["pixels"] - square(again - x)) < 1e-6
    total = softplus(-score) + 15 * square(found - camera) + 5 * (terms["pixels"] + terms["dissimilarity"])
    assert abs(terms["loss"] - total) < 1e-5


def test_the_updates_of_the_generator_alternate() -> None:
    updates = {update.name: update for update in lowered()[0].updates}
    assert (updates["generator"].every, updates["generator"].rests) == (2, False)
    assert (updates["reconstruction"].every, updates["reconstruction"].rests) == (2, True)
    assert updates["reconstruction"].networks == ("main", "encoder")
    alone = lowered("objective.reconstruction=0", "objective.conditional=0")[0].updates
    assert [update.name for update in alone] == ["opponents", "generator"] and alone[1].every == 1


def test_the_encoder_learns_from_reconstructions_after_the_warmup(tmp_path: Path) -> None:
    spec = load_spec("boxes_pix2nerf", overrides=[*TINY, "objective.warmup=5"])
    low, rng = lower(spec), np.random.default_rng(1)
    update = next(update for update in low.updates if update.name == "reconstruction")
    inputs = low.module.entry(update.loss).inputs
    given = {
        v.name: torch.tensor(rng.uniform(0, 1, [d if isinstance(d, int) else 2 for d in v.type.shape])).float()
        for v in inputs
    }
    given["y"] = torch.tensor([0, 1])
    with emitted(low, spec, tmp_path / "project") as project:
        made = next(one for one in project.objective.UPDATES if one.metrics == update.metrics)
        nets = {name: project.model.NETWORKS[name]() for name in made.networks}
        for step, learns in ((4, False), (5, True)):
            given["training_step"] = torch.tensor(step)
            loss, *_ = made.loss(*nets.values(), **given)
            for name, moves in (("main", True), ("encoder", learns)):
                grads = torch.autograd.grad(loss, list(nets[name].parameters()), retain_graph=True, allow_unused=True)
                assert any(g is not None and g.abs().max() > 1e-9 for g in grads) == moves


@pytest.mark.parametrize("distribution", ["normal", "uniform", "spherical"])
def test_cameras_are_drawn_around_their_means(distribution: Any) -> None:
    camera = Camera(kind="camera", distribution=distribution, mean=(1.0, 2.0), spread=(0.5, 0.25))
    (given,) = camera.inputs("camera", load_spec("boxes_pix2nerf"))
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(given.read(b, b.input("drawn", given.source)))
    b.finish()
    drawn = np.array([[0.25, 0.5], [0.9, 0.1]])
    (found,) = Interpreter(mb.finish()).run("main", drawn)
    wanted = np.array([1.0, 2.0]) + np.array([0.5, 0.25]) * (drawn if distribution == "normal" else 2 * drawn - 1)
    if distribution == "spherical":
        wanted[:, 0] = np.arccos(1 - 2 * wanted[:, 0] / np.pi)
    assert np.abs(found - wanted).max() < 1e-6


def test_an_image_is_seen_from_the_camera_of_a_request(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("boxes_pix2nerf", tmp_path / "b", TINY, std=0.5), "cpu")
    images = RNG.uniform(-1, 1, (2, 3, 4, 4)).astype(np.float32)
    cameras = np.array([[1.2, 1.2], [1.2, 1.9]], np.float32)
    views = [pipe.sample([2], conditions={"camera": camera}, seeds=7) for camera in cameras]
    assert views[0].shape == (1, 3, 4, 4) and np.abs(views[0] - views[1]).max() > 1e-3
    asked = {"image": images[[0, 0]], "camera": cameras}
    seen = pipe.sample([2, 2], conditions=asked, program="novel_view")
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    asked = {"image": images, "camera": cameras[[0, 0]]}
    others = pipe.sample([2, 2], conditions=asked, program="novel_view")
    assert np.array_equal(others[0], seen[0]) and np.abs(others[1] - others[0]).max() > 1e-4
    assert pipe.sample([2], seeds=7).shape == (1, 3, 4, 4)  # from the mean camera


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["networks.main.far=0.5"], "is not beyond `near: 0.65`"),
        (["conditioning.camera=null"], "takes one camera, but got 0 arrays"),
        (["networks.encoder.widths=[4, 4]"], "1 blocks need images of 4 pixels per side, not 8"),
        (["conditioning.camera.spread=[-1, 1]"], "has a negative number"),
        (["networks.encoder=null"], "`encoder`"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said.replace("[", "\\[")):
        load_spec("boxes_pix2nerf", overrides=options)
