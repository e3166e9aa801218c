"""Drifting: the drift against the authors' numbers, the whole loss written out, the bank of samples, refusals."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from parity_data import load
from random_weights import random_weights

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.drifting.drift import drift_error

TINY = ("main.width=16", "main.depth=1", "main.block.mixer.heads=2", "main.class_tokens=1", "main.code_count=2")
TINY += ("features.width=4", "features.groups=2", "bank.of_class=2", "bank.of_all=3")
TINY = tuple(f"networks.{size}" for size in TINY)
TINY += ("objective.samples=3", "objective.positives=2", "objective.negatives=2", "objective.unguided=0.5")
CLASSES, BATCH = 10, 4


@cache
def lowered() -> tuple[Lowered, dict[str, np.ndarray]]:
    low, weights = lower(load_spec("digits_drifting", overrides=list(TINY))), dict[str, np.ndarray]()
    for name, network in low.networks.items():
        functions = [low.module.functions[method.function] for method in network.methods.values()]
        params = {k: v for fn in functions for k, v in parameters(low.module, fn.name).items()}
        drawn = random_weights(params, np.random.default_rng(0), 0.3)
        weights |= {f"{name}.{key}": value for key, value in drawn.items()}
    weights |= {key: np.zeros_like(weights[key]) for key in ("bank.kept", "bank.ends")}
    return low, weights


def test_the_drift_is_the_authors() -> None:
    """Errors, and their gradient by the samples, with weights other than 1 for negatives alone."""
    numbers = load("drifting.loss")
    given, wanted = numbers.inputs, numbers.outputs
    mb = ModuleBuilder()
    b = mb.function("drift")
    samples, positives, negatives = (b.input(n, f32(*given[n].shape)) for n in ("gen", "pos", "neg"))
    of_gen, of_pos, of_neg = (b.input(n, f32(*given[n].shape)) for n in ("gen_w", "pos_w", "neg_w"))
    weights = b.concat(of_gen, of_neg, of_pos, axis=1)
    errors, _ = drift_error(b, samples, positives, negatives, weights, (0.2, 0.05, 0.02))
    b.output(b.sum(errors, axes=(0,), keepdims=False), errors)
    b.finish("")
    b = mb.function("gradient")
    operands = [b.input(n, f32(*given[n].shape)) for n in ("gen", "pos", "neg", "gen_w", "pos_w", "neg_w")]
    b.output(*b.gradient("drift", "", operands, of=0, wrt=(0,), out="total by_samples"))
    b.finish("")
    oracle = Interpreter(mb.finish(), {})
    arrays = [given[n].astype(np.float64) for n in ("gen", "pos", "neg", "gen_w", "pos_w", "neg_w")]
    found = oracle.run("drift", *arrays)[1]
    assert np.abs(found - wanted["out.loss"]).max() < 1e-5 * wanted["out.loss"].max()
    by_samples = oracle.run("gradient", *arrays)[-1]
    assert np.abs(by_samples - wanted["out.grad_gen"]).max() < 1e-5 * np.abs(wanted["out.grad_gen"]).max()


def drift(samples: np.ndarray, positives: np.ndarray, negatives: np.ndarray, scale: np.ndarray) -> float:
    """The paper's loss of one feature map: [B, G, T, D], [B, P, T, D], [B, N, T, D], scales of guidance [B]."""
    (count, wanted, others), root = (len(x[0]) for x in (samples, positives, negatives)), np.sqrt(samples.shape[-1])
    x, y_pos, y_neg = (
        np.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3]) for x in (samples, positives, negatives)
    )
    targets = np.concatenate([x, y_neg, y_pos], axis=1)
    weight = np.ones((len(x), count + others + wanted))
    weight[:, count : count + others] = np.repeat((scale - 1) * (count - 1) / others, samples.shape[2])[:, None]
    square = ((x[:, :, None] - targets[:, None]) ** 2).sum(-1)
    distance = np.sqrt(np.maximum(square, 1e-8))
    mean = (distance * weight[:, None]).mean() / weight.mean()
    unit, mean = max(mean / root, 1e-3), max(mean, 1e-3)
    logits = distance / mean + 100 * np.eye(count, count + others + wanted)
    moved = np.zeros_like(x)
    for temperature in (0.2, 0.05, 0.02):
        kernel = np.exp(-logits / temperature)
        kernel = np.sqrt(np.maximum(kernel**2 / kernel.sum(2, keepdims=True) / kernel.sum(1, keepdims=True), 1e-6))
        kernel = kernel * weight[:, None]
        away, towards = kernel[:, :, : count + others], kernel[:, :, count + others :]
        factor = np.concatenate([-away * towards.sum(2, keepdims=True), towards * away.sum(2, keepdims=True)], axis=2)
        force = np.einsum("biy,biyd->bid", factor, targets[:, None] - x[:, :, None]) / unit
        moved += force / np.sqrt(max((force**2).mean(), 1e-8))
    return float((moved**2).mean())


def test_the_loss_is_the_papers() -> None:
    """The sum over feature maps; the bank is empty, so that an element is its own positive and negative."""
    low, weights = lowered()
    oracle, rng = Interpreter(low.module, weights), np.random.default_rng(5)
    x, y = rng.uniform(-1, 1, (BATCH, 1, 8, 8)), np.array([3, 0, 3, 9])
    z, codes = rng.standard_normal((BATCH, 3, 1, 8, 8)), rng.integers(0, 8, (BATCH, 3, 2))
    drawn, plain = np.array([1.5, 3.0, 1.2, 2.0]), np.array([0.7, 0.3, 0.9, 0.8])
    chances = {name: np.full((BATCH, 2), 0.5) for name in ("of_class_chance", "of_all_chance")}
    given = {"x": x, "y": y, "z": z, "codes": codes, "cfg": drawn, "plain": plain, **chances}
    scale = np.where(plain < 0.5, 1.0, drawn)
    main, maps = (low.networks[n].methods[m].function for n, m in (("main", "forward"), ("features", "maps")))
    told = {
        "z": z.reshape(-1, 1, 8, 8),
        "codes": codes.reshape(-1, 2),
        "y": np.repeat(y, 3),
        "cfg": np.repeat(scale, 3),
    }
    ports = low.networks["main"].methods["forward"].inputs
    (made,) = oracle.run(main, *(told[p.name] for p in ports), prefix="main")
    of_made, of_data = (oracle.run(maps, images, prefix="features") for images in (made, x))
    wanted = 0.0
    for ours, theirs in zip(of_made, of_data, strict=True):
        itself = np.repeat(theirs[:, None], 2, axis=1)
        wanted += drift(ours.reshape(BATCH, 3, *ours.shape[1:]), itself, itself, scale)
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    assert len(of_made) == 30
    assert found[0] == pytest.approx(wanted, rel=1e-6)


def test_a_bank_keeps_the_last_samples_of_each_class_and_of_all() -> None:
    """Compared with lists, over four batches with repeated classes."""
    low, weights = lowered()
    method = low.networks["bank"].methods["forward"]
    of_class: dict[int, list[float]] = {}
    of_all: list[float] = []
    rng, number = np.random.default_rng(1), 0.0
    for labels in ([3, 0, 3, 9], [3, 3, 3, 0], [9, 1, 0, 3], [0, 0, 0, 9]):
        values = number + np.arange(1.0, BATCH + 1)
        x = np.broadcast_to(values[:, None, None, None], (BATCH, 1, 8, 8))
        chance = {p.name: rng.uniform(0, 1, (BATCH, 2)) for p in method.inputs_of("noise")}
        operands = {"x": x, "y": np.array(labels), **chance}
        oracle = Interpreter(low.module, weights, training=True)
        out = oracle.run(method.function, *(operands[p.name] for p in method.inputs), prefix="bank")
        assert all(np.ptp(array, axis=(-3, -2, -1)).max() == 0 for array in out)
        positives, negatives, _ = (array[..., 0, 0, 0] for array in out)
        for row, label in enumerate(labels):
            for kept, found in ((of_class.get(label, []), positives), (of_all, negatives)):
                allowed = set(kept) or {values[row]}
                assert set(found[row]) <= allowed, (label, found[row], allowed)
        for label, value in zip(labels, values, strict=True):
            of_class[label] = [*of_class.get(label, []), value][-2:]
            of_all = [*of_all, value][-3:]
        weights, number = weights | oracle.written, number + BATCH
    kept = weights["bank.kept"][:, 0, 0, 0]
    for label in range(CLASSES):
        assert set(kept[2 * label : 2 * label + 2]) - {0.0} == set(of_class.get(label, []))
    assert set(kept[2 * CLASSES :]) == set(of_all)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["conditioning.cfg=null"], "the generator does not take the scale of guidance"),
        (["conditioning.class.dropout=0.1"], "condition `class` is dropped in training"),
        (["networks.bank=null"], "bank"),
        (["networks.features={kind: lpips}"], "features"),
        (["networks.main.patch=3"], "patches of 3 do not tile a side of 8"),
        (["conditioning.cfg.range=[0, 4]"], "give [low, high] with 0 < low < high"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_drifting", overrides=overrides)
    assert any(says in f"{one.message} {one}" for one in caught.value.diagnostics), caught.value


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.patch=3"], "patches of 3 do not tile [8, 8]"),
        (["objective.hidden=[0.9, 0.5]"], "the range is empty"),
        (["data={kind: npz, path: train.npz, shape: [1, 8, 8]}"], "no classes"),
        (["data={kind: npz, path: train.npz, classes: 3, shape: [1, 12, 12]}"], "cannot be halved three times"),
    ],
)
def test_features_that_do_not_fit_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_drifting_features", overrides=overrides)
    assert any(says in f"{one.message} {one}" for one in caught.value.diagnostics), caught.value


def test_the_class_counts_in_the_last_steps() -> None:
    """Of 20 steps the last 10, with a weight that rises over 4."""
    overrides = ["networks.main.width=4", "train.schedule.warmup=0", "train.steps=20"]
    overrides += ["objective.last=10", "objective.rise=4"]
    low = lower(load_spec("digits_drifting_features", overrides=overrides))
    params = parameters(low.module, low.networks["main"].methods["forward"].function)
    weights = {f"main.{k}": v for k, v in random_weights(params, np.random.default_rng(0), 0.3).items()}
    rng, entry = np.random.default_rng(2), low.module.entry("loss")
    given = {"x": rng.uniform(-1, 1, (3, 1, 8, 8)), "y": np.array([1, 5, 9]), "share": np.full(3, 0.5)}
    given["chance"] = rng.uniform(0, 1, (3, 4, 4))
    for step, weight in ((0, 0.0), (10, 0.0), (12, 0.05), (14, 0.1), (19, 0.1)):
        operands = {**given, "training_step": np.array(step)}
        loss, mse, cross = Interpreter(low.module, weights).run("loss", *(operands[v.name] for v in entry.inputs))
        assert loss == pytest.approx(weight * cross + (1 - weight) * mse, rel=1e-6)
