"""Terms of the adversarial objective: their values by plain PyTorch, and what reaches whom."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted

from latentc.checkpoint import network_params
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

HEADS = "networks.discriminator.heads=[discriminative, classes, twin_classes, classes_and_fake]"
SMALL = ["networks.main.width=8", "networks.discriminator.width=8", "networks.discriminator.projection=false", HEADS]
TERMS = {
    "auxiliary_classifier": "auxiliary_classifier",
    "on_samples": "{kind: auxiliary_classifier, learns_from_samples: true, generator_weight: 0.1}",
    "twin": "twin_auxiliary_classifier",
    "discriminative": "{kind: discriminative_classifier, weight: 0.5}",
    "fake_class": "fake_class",
    "interpolated": "gradient_penalty",
    "r1": "{kind: gradient_penalty, at: real, target: 0, weight: 5}",
    "r2": "{kind: gradient_penalty, at: fake, target: 0, weight: 5}",
    "lecam": "{kind: lecam, weight: 0.5}",
    "lecam_of_means": "{kind: lecam, of: means}",
    "label_noise": "{kind: non_saturating, label_noise: 0.2, label_noise_limit: 0.25}",
}
PROJECTED = ["networks.discriminator.projection=true"]


@cache
def lowered(terms: str, *more: str) -> tuple[Any, Lowered, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(spec, what it is lowered to, weights that are nowhere zero, data and draws)."""
    spec = load_spec("digits_biggan", None, [*SMALL, f"objective.terms={terms}", *more])
    low, rng = lower(spec), np.random.default_rng(0)
    weights = {}
    for name, net in low.networks.items():
        for path, p in network_params(low, net).items():
            shape = tuple(int(d) for d in p.type.shape)
            value = INITS[p.init.kind](rng, shape, **p.init.args)
            weights[f"{name}.{path}"] = value if value.any() else 0.1 * rng.standard_normal(shape)
    given = {
        "x": rng.standard_normal((6, 1, 8, 8)),
        "y": rng.integers(0, 10, 6),
        "z": rng.standard_normal((6, 32)),
        "labels": rng.integers(0, 10, 6),
        "mix": rng.random(6),
        "label_noise_of_data": rng.standard_normal((6, 1)),
        "label_noise_of_samples": rng.standard_normal((6, 1)),
    }
    return spec, low, weights, given


def networks(project: Any, weights: dict[str, np.ndarray]) -> dict[str, torch.nn.Module]:
    """The emitted networks in float64, in eval mode."""
    nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
    for name, net in nets.items():
        own = {k.removeprefix(f"{name}."): torch.tensor(v) for k, v in weights.items() if k.startswith(f"{name}.")}
        net.load_state_dict({k: own.get(k, v) for k, v in net.state_dict().items()})
    return nets


def plain(term: str, judge: Any, data: dict[str, Any], fake: Any) -> tuple[Any, Any]:
    """What the term adds to the losses of discriminator and generator, by PyTorch's own functions."""
    x, y, labels, mix = (data[name] for name in ("x", "y", "labels", "mix"))
    (real_score, adc, ac, _, am), (fake_score, adc_fake, ac_fake, mi_fake, am_fake) = judge(x), judge(fake)
    ce, zero = F.cross_entropy, torch.zeros((), dtype=torch.float64)
    if term.startswith("lecam"):
        scores = (real_score.mean(), fake_score.mean()) if term == "lecam_of_means" else (real_score, fake_score)
        above, below = scores[0] - judge.average_of_fake, judge.average_of_real - scores[1]
        return (0.001 if term == "lecam_of_means" else 0.5) * sum(F.relu(e).pow(2).mean() for e in (above, below)), zero
    if term == "label_noise":
        real, fake = ((data[f"label_noise_of_{s}"].abs() * 0.2).clamp(max=0.25) for s in ("data", "samples"))
        bce = F.binary_cross_entropy_with_logits
        return bce(real_score, 1 - real) + bce(fake_score, fake), bce(fake_score, torch.ones_like(fake_score))
    if term == "auxiliary_classifier":
        return ce(ac, y), ce(ac_fake, labels)
    if term == "on_samples":
        return ce(ac, y) + ce(ac_fake, labels), 0.1 * ce(ac_fake, labels)
    if term == "twin":
        return ce(ac, y) + ce(mi_fake, labels), ce(ac_fake, labels) - ce(mi_fake, labels)
    if term == "discriminative":
        of_generator = ce(adc_fake, 2 * labels) - ce(adc_fake, 2 * labels + 1)
        return 0.5 * (ce(adc, 2 * y) + ce(adc_fake, 2 * labels + 1)), 0.5 * of_generator
    if term == "fake_class":
        return ce(am, y) + ce(am_fake, torch.full_like(labels, 10)), ce(am_fake, labels)
    place = {"interpolated": x + mix.view(-1, 1, 1, 1) * (fake - x), "r1": x, "r2": fake}[term]
    place = place.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(place)[0].sum(), place, create_graph=True)
    norm = gradient.flatten(1).norm(dim=1)
    return (10 * (norm - 1).square().mean() if term == "interpolated" else 5 * norm.square().mean()), zero


@pytest.mark.parametrize("term", TERMS)
def test_terms_are_pytorchs(term: str, tmp_path: Path) -> None:
    """Loss, and its gradient by every weight of the discriminator; by the oracle and the emitted project."""
    spec, low, weights, given = lowered(f"[hinge, {TERMS[term]}]")
    updates = {update.name: update for update in low.updates}
    with emitted(low, spec, tmp_path / "project") as project:
        nets = networks(project, weights)
        data = {k: torch.tensor(v) for k, v in given.items()}
        fake = nets["main"](data["z"], data["labels"])
        judge = nets["discriminator"]
        of_d = plain(term, judge, data, fake.detach())[0]
        of_d = of_d + F.relu(1 - judge(data["x"])[0]).mean() + F.relu(1 + judge(fake.detach())[0]).mean()
        of_g = plain(term, judge, data, fake)[1] - judge(fake)[0].mean()
        for name, wanted, trained in (("discriminator", of_d, judge), ("generator", of_g, nets["main"])):
            update = updates[name]
            names = [*update.batch, *(draw.name for draw in update.draws)]
            oracle = Interpreter(low.module, weights).run(update.loss, *(given[n] for n in names))
            made = next(u for u in project.objective.UPDATES if u.trained == update.networks)
            found = made.loss(*(nets[n] for n in made.networks), **{n: data[n] for n in names})
            found = found if isinstance(found, tuple) else (found,)
            assert len(oracle) == len(found) == len(update.metrics)
            assert np.allclose(oracle[0], float(wanted.detach()), rtol=1e-9)
            assert np.allclose(float(found[0].detach()), float(wanted.detach()), rtol=1e-9)
            parameters = [p for p in trained.parameters() if p.requires_grad]
            gradients = [
                torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                for loss in (found[0], wanted)
            ]
            for a, e in zip(*gradients, strict=True):
                assert (a is None) == (e is None)
                assert a is None or torch.allclose(a, e, rtol=1e-7, atol=1e-10)


def test_penalties_tell_the_discriminator_the_class(tmp_path: Path) -> None:
    """Interpolated images have the class of the data that they come from."""
    spec, low, weights, given = lowered("[wasserstein, gradient_penalty]", *PROJECTED)
    with emitted(low, spec, tmp_path / "project") as project:
        nets = networks(project, weights)
        data = {k: torch.tensor(v) for k, v in given.items()}
        fake = nets["main"](data["z"], data["labels"]).detach()
        place = (data["x"] + data["mix"].view(-1, 1, 1, 1) * (fake - data["x"])).requires_grad_()
        (gradient,) = torch.autograd.grad(nets["discriminator"](place, data["y"])[0].sum(), place)
        wanted = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        update = low.updates[0]
        names = [*update.batch, *(draw.name for draw in update.draws)]
        found = Interpreter(low.module, weights).run(update.loss, *(given[name] for name in names))
        assert low.updates[0].metrics[2] == "discriminator/gradient_penalty"
        assert np.allclose(found[2], float(wanted.detach()), rtol=1e-9)


@pytest.mark.parametrize("term", ["r1", "interpolated"])
def test_a_lazy_penalty_is_an_update_of_its_own(term: str, tmp_path: Path) -> None:
    """Every 16 steps, with 16 times the weight; the other updates do not know it."""
    kind = TERMS[term].strip("{}").removeprefix("kind: ")
    spec, low, weights, given = lowered(f"[hinge, {{kind: {kind}, every: 16}}]")
    assert [(u.name, u.every) for u in low.updates] == [
        ("discriminator", 1),
        ("gradient_penalty_1", 16),
        ("generator", 1),
    ]
    assert "gradient" not in str(low.updates[0].metrics) and low.updates[1].networks == ("discriminator",)
    update = low.updates[1]
    assert update.repeats == low.updates[0].repeats == spec.objective.discriminator_steps > 1
    names = [*update.batch, *(draw.name for draw in update.draws)]
    assert set(names) == ({"x"} if term == "r1" else {"x", "z", "labels", "mix"})
    with emitted(low, spec, tmp_path / "project") as project:
        nets, data = networks(project, weights), {k: torch.tensor(v) for k, v in given.items()}
        fake = nets["main"](data["z"], data["labels"]).detach()
        wanted = float(plain(term, nets["discriminator"], data, fake)[0].detach())
        made = next(u for u in project.objective.UPDATES if u.every == 16)
        found = made.loss(*(nets[n] for n in made.networks), **{n: data[n] for n in names})
    oracle = Interpreter(low.module, weights).run(update.loss, *(given[n] for n in names))
    factor = 5 if term == "r1" else 10
    assert np.allclose([*oracle, *(float(x.detach()) for x in found)], [16 * wanted, wanted / factor] * 2, rtol=1e-9)


def test_averages_of_scores_follow_them_in_training(tmp_path: Path) -> None:
    """The term sees them as they were before; in inference they stay."""
    spec, low, weights, given = lowered("[hinge, {kind: lecam, decay: 0.9}]")
    update = low.updates[0]
    names = [*update.batch, *(draw.name for draw in update.draws)]
    paths = [f"discriminator.average_of_{side}" for side in ("real", "fake")]
    with emitted(low, spec, tmp_path / "project") as project:
        nets = networks(project, weights)
        data = {k: torch.tensor(v) for k, v in given.items()}
        judge = nets["discriminator"]
        fake = nets["main"](data["z"], data["labels"])
        with torch.no_grad():
            scores = [float(judge(images)[0].mean()) for images in (data["x"], fake)]
        wanted = [0.9 * float(weights[path][0]) + 0.1 * score for path, score in zip(paths, scores, strict=True)]
        calm = project.objective.UPDATES[0].loss(nets["main"], judge, **{n: data[n] for n in names})
        judge.train()
        moved = project.objective.UPDATES[0].loss(nets["main"], judge, **{n: data[n] for n in names})
        assert float(calm[2].detach()) == pytest.approx(float(moved[2].detach()), rel=1e-4)
        assert [float(judge.get_buffer(path.partition(".")[2])) for path in paths] == pytest.approx(wanted)
    oracle = Interpreter(low.module, weights, training=True)
    oracle.run(update.loss, *(given[name] for name in names))
    assert set(paths) <= set(oracle.written)


def test_nobody_asks_for_classes_of_an_unconditional_gan() -> None:
    low = lower(load_spec("wgan_gp"))
    assert [update.batch for update in low.updates] == [("x",), ()]
    assert [[draw.name for draw in update.draws] for update in low.updates] == [["z", "mix"], ["z"]]
    assert low.conditions == ()


def test_a_term_names_the_output_that_is_missing() -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("digits_biggan", None, ["objective.terms=[hinge, discriminative_classifier]"])
    text = str(refused.value)
    assert "the term `discriminative_classifier` reads the output `discriminative` of network `discriminator`" in text
    assert "has the outputs score" in text and "add `discriminative` to `networks.discriminator.heads`" in text


def test_penalties_alone_teach_a_generator_nothing() -> None:
    with pytest.raises(DiagnosticError, match="trains the generator"):
        load_spec("digits_biggan", None, ["objective.terms=[gradient_penalty]"])
