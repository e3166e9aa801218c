"""CycleGAN beside a computation written out in PyTorch, under the names of authors' checkpoints; its data and pool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from emitted import emitted
from torch import Tensor, nn

import latentc_runtime
from latentc.checkpoint import name_map, network_params, network_types, symbols
from latentc.components.contract import Lowered
from latentc.datasets import open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, export_weights, import_weights, materialise

WIDTH, DEPTH, BLOCKS, LAYERS = 4, 2, 2, 2
NETWORKS = ("main", "reverse", "discriminator", "reverse_discriminator")
SMALL = [
    "data.shape=[3, 16, 16]",
    *(f"networks.{name}.width={WIDTH}" for name in NETWORKS),
    *(f"networks.{name}.blocks={BLOCKS}" for name in NETWORKS[:2]),
    *(f"networks.{name}.depth={LAYERS}" for name in NETWORKS[2:]),
]
TINY = (
    *(f"networks.{name}.width=4" for name in NETWORKS),
    *("networks.main.blocks=1", "networks.reverse.blocks=1", "networks.pool.size=4"),
)


class Residual(nn.Module):
    """Two convolutions padded by reflection, each with an instance norm, beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU()]
        self.conv_block = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Named(nn.Module):
    """Layers in a row, called `model.0`, `model.1` and so on."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def generator() -> Named:
    """The authors' `ResnetGenerator` with instance norms."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, WIDTH, 7), nn.InstanceNorm2d(WIDTH), nn.ReLU()]
    for i in range(DEPTH):
        wide = WIDTH * 2 ** (i + 1)
        layers += [nn.Conv2d(wide // 2, wide, 3, 2, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
    layers += [Residual(WIDTH * 2**DEPTH) for _ in range(BLOCKS)]
    for i in reversed(range(DEPTH)):
        wide = WIDTH * 2**i
        layers += [nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, 1), nn.InstanceNorm2d(wide), nn.ReLU()]
    return Named(*layers, nn.ReflectionPad2d(3), nn.Conv2d(WIDTH, 3, 7), nn.Tanh())


def judge() -> Named:
    """The authors' `NLayerDiscriminator` with instance norms."""
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i in range(1, LAYERS + 1):
        wide, stride = WIDTH * 2**i, 2 if i < LAYERS else 1
        layers += [nn.Conv2d(wide // 2, wide, 4, stride, 1), nn.InstanceNorm2d(wide), nn.LeakyReLU(0.2)]
    return Named(*layers, nn.Conv2d(WIDTH * 2**LAYERS, 1, 4, 1, 1))


def by_our_names(low: Lowered, spec: Any, network: str, theirs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors under the authors' names by ours. Asserts that they are written back under all of the authors'."""
    rules, types = name_map(spec, network, "official"), network_types(low, network)
    sizes = symbols(low, low.networks[network])
    found = import_weights({name: Array(x.detach().numpy()) for name, x in theirs.items()}, rules, types, sizes)
    assert {*export_weights(found, rules, sizes)} == {*theirs}
    return {name: np.asarray(materialise(expr), np.float64) for name, expr in found.items()}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small CycleGAN of both kinds: ours and the one written out, with the same weights, and images of both sets."""
    spec = load_spec("cyclegan", None, SMALL)
    low = lower(spec)
    torch.manual_seed(0)
    written = {name: (generator() if i < 2 else judge()) for i, name in enumerate(NETWORKS)}
    for network in written.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    own = {name: by_our_names(low, spec, name, network.state_dict()) for name, network in written.items()}
    own["pool"] = {
        path: np.zeros([int(d) for d in p.type.shape]) for path, p in network_params(low, low.networks["pool"]).items()
    }
    images = {name: torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1 for name in ("x", "image")}
    with emitted(low, spec, tmp_path_factory.mktemp("cyclegan") / "project") as project:
        nets = {name: build().double() for name, build in project.model.NETWORKS.items()}
        for name, network in nets.items():
            network.load_state_dict({path: torch.tensor(x) for path, x in own[name].items()})
        weights = {f"{name}.{path}": x for name, arrays in own.items() for path, x in arrays.items()}
        yield SimpleNamespace(
            spec=spec,
            low=low,
            written={name: network.double() for name, network in written.items()},
            nets=nets,
            weights=weights,
            images=images,
            updates={update.networks[0]: update for update in low.updates},
            losses={update.trained[0]: update for update in project.objective.UPDATES},
        )


def written_out(case: Any, trained: str) -> list[Tensor]:
    """A loss and its terms, by the networks that are written out."""
    there, back, of_target, of_source = case.written.values()
    b, a = case.images["x"], case.images["image"]
    fake_b, fake_a = there(a), back(b)
    one, none = torch.ones_like(of_target(a)), torch.zeros_like(of_target(a))
    if trained == "main":
        least_squares = F.mse_loss(of_target(fake_b), one) + F.mse_loss(of_source(fake_a), one)
        cycle = F.l1_loss(back(fake_b), a) + F.l1_loss(there(fake_a), b)
        identity = F.l1_loss(there(b), b) + F.l1_loss(back(a), a)
        return [least_squares + 10 * cycle + 0.5 * 10 * identity, least_squares, cycle, identity]
    parts = [F.mse_loss(of_target(b), one), F.mse_loss(of_target(fake_b.detach()), none)]
    parts += [F.mse_loss(of_source(a), one), F.mse_loss(of_source(fake_a.detach()), none)]
    return [(parts[0] + parts[1]) * 0.5 + (parts[2] + parts[3]) * 0.5, *parts]


@pytest.mark.parametrize(
    "trained", [("main", "reverse"), ("discriminator", "reverse_discriminator")], ids=lambda n: n[0]
)
def test_losses_and_gradients_are_those_written_out(case: Any, trained: tuple[str, str]) -> None:
    """By the oracle and by the emitted project; the pool, still empty, returns the samples themselves."""
    wanted = written_out(case, trained[0])
    update, emitted_update = case.updates[trained[0]], case.losses[trained[0]]
    assert update.networks == trained
    draws = {name: torch.full((2,), 0.9, dtype=torch.float64) for name in ("target_chance", "source_chance")}
    draws |= {name: torch.zeros(2, dtype=torch.int64) for name in ("target_index", "source_index")}
    given = {n: (case.images | draws)[n] for n in (*update.batch, *(draw.name for draw in update.draws))}
    oracle = Interpreter(case.low.module, case.weights).run(update.loss, *(x.numpy() for x in given.values()))
    found = emitted_update.loss(*(case.nets[name] for name in emitted_update.networks), **given)
    for values in (oracle, [x.detach() for x in found]):
        assert [float(x) for x in values] == pytest.approx([float(x.detach()) for x in wanted], rel=1e-10)
    for name in trained:
        theirs = dict(case.written[name].named_parameters())
        slopes = dict(zip(theirs, torch.autograd.grad(wanted[0], [*theirs.values()], retain_graph=True), strict=True))
        ours = dict(case.nets[name].named_parameters())
        own = dict(zip(ours, torch.autograd.grad(found[0], [*ours.values()], retain_graph=True), strict=True))
        expected = by_our_names(case.low, case.spec, name, slopes)
        assert {*expected} == {*own}
        largest = max(np.abs(x).max() for x in expected.values())
        assert largest > 1e-3
        for path, slope in own.items():
            assert np.abs(slope.numpy() - expected[path]).max() < 1e-6 * largest, path


def test_translations_are_those_written_out(case: Any) -> None:
    out = Interpreter(case.low.module, case.weights).run("sample.1", case.images["image"].numpy())
    with torch.no_grad():
        wanted = case.written["main"](case.images["image"]).numpy()
    assert np.abs(out[0] - wanted).max() < 1e-12 and np.ptp(wanted) > 0.1


def test_the_pool_exchanges_half_of_the_samples_for_past_ones(case: Any) -> None:
    """As a list that is filled, whose entries are then replaced at random, one sample after another."""
    pool, size, rng = case.nets["pool"], 50, np.random.default_rng(0)
    pool.load_state_dict({name: torch.zeros_like(x) for name, x in pool.state_dict().items()})
    lists: tuple[list[Tensor], list[Tensor]] = ([], [])
    exchanged = 0
    for step in range(40):
        samples = [torch.tensor(rng.standard_normal((3, 3, 16, 16))) for _ in range(2)]
        chances, indices = rng.random((2, 3)), rng.integers(0, size, (2, 3))
        draws = [x for two in zip(torch.tensor(chances), torch.tensor(indices), strict=True) for x in two]
        found = pool(*samples, *draws)
        for kept, given, got, chance, index in zip(lists, samples, found, chances, indices, strict=True):
            for i, sample in enumerate(given):
                wanted = sample
                if len(kept) < size:
                    kept.append(sample)
                elif chance[i] > 0.5:
                    wanted, kept[index[i]] = kept[index[i]], sample
                    exchanged += 1
                assert torch.equal(got[i], wanted), step
    assert exchanged > 40
    assert torch.equal(pool.target, torch.stack(lists[0])) and torch.equal(pool.source, torch.stack(lists[1]))
    before = pool.eval().target.clone()
    pool(*samples, *draws)
    assert torch.equal(pool.train().target, before)


def test_digits_are_drawn_from_two_classes() -> None:
    spec = load_spec("digits_cyclegan")
    data, every = open_dataset(spec.data.settings()), load_spec("digits_edm").data
    digits = open_dataset(every.settings()).rows(np.arange(898))
    eights, threes = (digits["x"][digits["y"] == of] for of in (8, 3))
    assert data.size == len(eights)
    rows = data.rows(np.arange(data.size))
    assert np.array_equal(rows["x"], eights) and np.array_equal(rows["image"][: len(threes)], threes[: data.size])
    drawn = data.rows(np.arange(data.size), np.random.default_rng(0))
    assert np.array_equal(drawn["x"], eights) and not np.array_equal(drawn["image"], rows["image"])
    known = {x.tobytes() for x in threes}
    assert {x.tobytes() for x in drawn["image"]} <= known


def test_images_are_drawn_from_two_folders(tmp_path: Path) -> None:
    from PIL import Image

    for folder, count, level in (("benign", 3, 10), ("malignant", 2, 200)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            Image.new("RGB", (20, 16), (level + i,) * 3).save(tmp_path / folder / f"{i}.png")
    overrides = [f"data.path={tmp_path}", "data.shape=[3, 8, 8]"]
    spec = load_spec(
        "cyclegan", "melanoma", [*overrides, "networks.discriminator.depth=1", "networks.reverse_discriminator.depth=1"]
    )
    data = open_dataset(spec.data.settings())
    levels = {n: np.round((x[:, 0, 0, 0] + 1) * 127.5) for n, x in data.rows(np.arange(2)).items()}
    assert data.size == 2 and levels["x"].tolist() == [200, 201] and levels["image"].tolist() == [10, 11]
    drawn = data.rows(np.arange(2).repeat(20), np.random.default_rng(0))["image"]
    assert sorted({*np.round((drawn[:, 0, 0, 0] + 1) * 127.5)}) == [10, 11, 12]


def test_a_translation_follows_from_its_image(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("digits_cyclegan", tmp_path / "b", TINY), "cpu")
    images = np.random.default_rng(0).uniform(-1, 1, (3, 1, 8, 8)).astype(np.float32)
    one, other = (pipe.sample(conditions={"image": images}, seeds=seed) for seed in (0, 100))
    assert one.shape == (3, 1, 8, 8) and np.array_equal(one, other)
    assert np.abs(one[0] - one[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["networks.discriminator.depth=2"], "fewer than 3 of 8 pixels are left"),
        (["data.target=3"], "`source` and `target` are both 3"),
        (["conditioning.image={kind: low_resolution, factor: 2}"], "each generator takes images \\[1, 8, 8\\]"),
        (["conditioning.class={kind: vector, field: x}"], "`image`, `class`|enters as"),
        (["networks.reverse=null"], "reverse"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_cyclegan", overrides=options)
