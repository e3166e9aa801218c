"""SlimGAN: a generator at several widths, a discriminator for each, and narrow widths that imitate wider ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from random_weights import weights_of

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = [
    "data.shape=[1, 8, 8]",
    "networks.main.width=8",
    "networks.main.widths=[0.25, 0.5, 1.0]",
    "networks.main.latent_dim=6",
    "networks.discriminator.width=4",
    "networks.discriminator.channel_multipliers=[1, 2, 2, 2]",
    "networks.discriminator.downsample_levels=1",
    "networks.discriminator.copies=3",
    "networks.discriminator.shared_levels=1",
]


def prepared(project: Any, low: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The emitted networks in float64 and evaluation mode, and their weights, which are nowhere zero."""
    rng, nets = np.random.default_rng(0), {}
    weights = {}
    for name, build in project.model.NETWORKS.items():
        own = {}
        for path, p in network_params(low, low.networks[name]).items():
            value = INITS[p.init.kind](rng, tuple(int(d) for d in p.type.shape), **p.init.args)
            own[path] = value + 0.1 * np.abs(rng.standard_normal(np.shape(value)))
        nets[name] = build().double().eval()
        nets[name].load_state_dict(
            {k: torch.tensor(own[k]) if k in own else v for k, v in nets[name].state_dict().items()}
        )
        weights |= {f"{name}.{path}": value for path, value in own.items()}
    return nets, weights


@pytest.mark.parametrize("stepwise", [True, False])
def test_losses_of_all_widths_are_added_up(stepwise: bool, tmp_path: Path) -> None:
    """By the oracle and the emitted project, with gradients for every weight."""
    spec = load_spec("slimgan", None, [*SMALL, f"objective.stepwise={str(stepwise).lower()}"])
    low, rng = lower(spec), np.random.default_rng(1)
    given = {"x": rng.standard_normal((4, 1, 8, 8))}
    given |= {name: rng.standard_normal((4, 6)) for name in ("z", "z_0", "z_1", "z_2")}
    with emitted(low, spec, tmp_path / "project") as project:
        nets, weights = prepared(project, low)
        data = {name: torch.tensor(value) for name, value in given.items()}
        main, judge = nets["main"], nets["discriminator"]
        make = (main.forward_0, main.forward_1, main)
        score = (judge.forward_0, judge.forward_1, judge)
        of_d, of_g = [], []
        for i in range(3):
            made = make[i](data[f"z_{i}"])
            of_d.append(F.relu(1 - score[i](data["x"])).mean() + F.relu(1 + score[i](made.detach())).mean())
            of_g.append(-score[i](made).mean())
        imitated = [m(data["z"]) for m in make]
        teachers = (1, 2) if stepwise else (2, 2)
        distilled = sum(F.mse_loss(imitated[i], imitated[t].detach()) for i, t in enumerate(teachers)) / 2
        for update, wanted in zip(low.updates, (sum(of_d), sum(of_g) + 20 * distilled), strict=True):
            names = [*update.batch, *(draw.name for draw in update.draws)]
            oracle = Interpreter(low.module, weights).run(update.loss, *(given[n] for n in names))
            made_by = next(u for u in project.objective.UPDATES if u.trained == update.networks)
            found = made_by.loss(*(nets[n] for n in made_by.networks), **{n: data[n] for n in names})
            assert len(oracle) == len(found) == len(update.metrics)
            assert [float(oracle[0]), float(found[0].detach())] == pytest.approx([float(wanted.detach())] * 2, rel=1e-9)
            parameters = [p for p in nets[update.networks[0]].parameters() if p.requires_grad]
            both = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found[0], wanted)]
            assert max(float(e.abs().max()) for e in both[1]) > 1e-3  # far above the bounds below
            assert all(torch.allclose(a, e, rtol=1e-7, atol=1e-10) for a, e in zip(*both, strict=True))


def test_a_narrow_width_is_the_first_channels(tmp_path: Path) -> None:
    """The generator of a width is the whole one of as many channels; the program has the sampler's width."""
    spec = load_spec("slimgan", None, [*SMALL, "sampler.width=0.5"])
    alone = load_spec(
        "slimgan",
        None,
        [*SMALL, "networks.main.width=4", "networks.main.widths=[0.5, 1.0]", "networks.discriminator.copies=2"],
    )
    low, small = lower(spec), lower(alone)
    with emitted(low, spec, tmp_path / "project") as project:
        _, weights = prepared(project, low)
    own = {}
    for path, p in network_params(small, small.networks["main"]).items():
        # Its norms are number 1 in both.
        own[path] = weights[f"main.{path}"][tuple(slice(0, int(n)) for n in p.type.shape)]
    z = np.random.default_rng(2).standard_normal((3, 6))
    wanted = Interpreter(small.module, own).run("main.forward", z)[0]
    program = low.programs[0]
    found = Interpreter(low.module, weights).run(program.entry, z)[0]
    assert np.allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["networks.discriminator.copies=2"], "has 3 widths, but `discriminator` has 2 copies"),
        (["networks.main.widths=[0.5, 0.25, 1.0]"], "widths must increase"),
        (["networks.main.widths=[0.25, 0.3, 1.0]"], "no whole number"),
        (["sampler.width=0.75"], r"has the widths 0.25, 0.5, 1.0, not 0.75"),
        (["objective.term=slicing"], "is no loss of the score"),
        (["objective={kind: adversarial}"], "has several widths or copies"),
        (["networks.discriminator.shared_levels=5"], "`shared_levels: 5` of 4 levels"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("slimgan", None, [*SMALL, *overrides]))


def test_one_width_has_neither_a_choice_nor_copies() -> None:
    for options, message in (
        (["sampler={kind: slimmable_pass}"], "turns noise into a sample at several widths"),
        (["networks.discriminator.kind=slimmable_discriminator"], "a copy"),
    ):
        with pytest.raises(DiagnosticError, match=message):
            load_spec("digits_biggan", None, options)


def test_label_noise_is_that_of_every_width() -> None:
    """Labels of data and samples are moved alike in the losses of all widths, by random inputs of the loss."""
    term = "objective.term={kind: non_saturating, label_noise: 0.2}"
    low, rng = lower(load_spec("slimgan", None, [*SMALL, term])), np.random.default_rng(3)
    update = next(u for u in low.updates if u.name == "discriminator")
    given = {"x": rng.standard_normal((4, 1, 8, 8)), **{f"z_{i}": rng.standard_normal((4, 6)) for i in range(3)}}
    moved = {f"label_noise_of_{side}": rng.standard_normal((4, 1)) for side in ("data", "samples")}
    assert [draw.name for draw in update.draws] == [*list(given)[1:], *moved]
    weights = {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in weights_of(low, 0.4, 3).items()}
    oracle = Interpreter(low.module, weights, float_dtype="f64")
    _, *found = oracle.run(update.loss, *given.values(), *moved.values())
    data, samples = (np.minimum(np.abs(noise) * 0.2, 0.3) for noise in moved.values())
    for i, method in enumerate(("forward_0", "forward_1", "forward")):
        (made,) = oracle.run(f"main.{method}", given[f"z_{i}"], prefix="main")
        images = np.concatenate([given["x"], made])
        (scores,) = oracle.run(f"discriminator.{method}", images, prefix="discriminator")
        of_data, of_samples = np.split(scores, 2)
        wanted = np.mean(np.logaddexp(0, -of_data) + data * of_data)
        wanted += np.mean(np.logaddexp(0, of_samples) - samples * of_samples)
        assert found[i] == pytest.approx(wanted, rel=1e-9)
