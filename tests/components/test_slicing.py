"""SAN: what trains the direction of a discriminator's last layer, and what trains the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from gradients import grad
from parity_data import LIMIT, error, excess, load

from latentc.components.contract import Network
from latentc.components.networks._gan import sliced
from latentc.components.objectives.terms._term import Round, Side, weighted
from latentc.components.objectives.terms.hinge import Hinge
from latentc.components.objectives.terms.slicing import Slicing
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import Builder, ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.lower import lower
from latentc.spec import load_spec

SAN = ["objective.terms=[hinge, slicing]", "networks.discriminator.sliced=true"]
STYLE = "networks.discriminator={kind: style_discriminator, channel_base: 64, channel_max: 8, sliced: true}"


def scores(b: Builder, features: Any, table: Any, classes: Any) -> Any:
    return sliced(b, features, b.embedding(table, classes, out="weight"), b.constant(0.0, "f32"))


def losses() -> Any:
    """Functions of features of data and samples, the table of last layers and the classes of both."""
    mb = ModuleBuilder()
    for name in ("discriminator", "generator"):
        b = mb.function(name)
        real, fake, table = (
            b.input(n, f32(*size)) for n, size in (("real", (B, 12)), ("fake", (B, 12)), ("w", (4, 12)))
        )
        classes = b.input("classes", i64(B))
        sides = [
            Side(h, {}, None, dict(zip(("score", "sliced"), scores(b, h, table, classes), strict=True)))
            for h in (real, fake)
        ]
        round, terms = (
            Round(b, Network("d", {}, frozenset()), sides[1], sides[0]),
            (Hinge(kind="hinge"), Slicing(kind="slicing")),
        )
        costs = [t.of_discriminator(round) if name == "discriminator" else t.of_generator(round) for t in terms]
        b.output(weighted(b, [(t, cost, t.weight) for t, cost in zip(terms, costs, strict=True)])["loss"])
        b.finish()
    return mb.finish()


def test_the_authors_loss_and_its_gradients() -> None:
    """By features of data and samples and by the last layer; the generator's by features of samples."""
    numbers, module = load("san.head"), losses()
    given = [numbers.inputs["real"], numbers.inputs["fake"], numbers.weights["fc_w"], numbers.inputs["class"]]
    assert error(Interpreter(module).run("discriminator", *given)[0], numbers.outputs["out.loss"]) < 1e-6
    by, name = grad(module, "discriminator", [0, 1, 2])
    for found, of in zip(Interpreter(by).run(name, *given), ("real", "fake", "fc_w"), strict=True):
        assert error(found, numbers.outputs[f"out.gradient.{of}"]) < 1e-6
    by, name = grad(module, "generator", [1])
    assert error(Interpreter(by).run(name, *given)[0], numbers.outputs["out.gradient.generator"]) < 1e-6


def test_the_authors_linear_layer() -> None:
    """Theirs keeps direction and scale apart, and adds its bias to the features."""
    numbers = load("san.SANLinear")
    mb = ModuleBuilder()
    b = mb.function("layer")
    b.output(*sliced(b, b.input("h", f32(B, 16)), b.input("weight", f32(1, 16)), b.constant(0.0, "f32")))
    mb.entries["layer"] = b.finish("A sliced layer.")
    weight, bias, scale = (numbers.weights[name].astype(np.float64) for name in ("weight", "bias", "scale"))
    given = numbers.inputs["input"] + bias, scale * weight / np.linalg.norm(weight)
    for found, wanted in zip(Interpreter(mb.finish()).run("layer", *given), ("out.0", "out.1"), strict=True):
        assert error(found, numbers.outputs[wanted]) < 1e-5
        assert excess(found, numbers.outputs[wanted], numbers.name) <= LIMIT


@pytest.mark.parametrize("style", [False, True])
def test_the_emitted_loss_trains_the_direction_apart(style: bool, tmp_path: Path) -> None:
    """Gradients by all weights, with spectral norms and the projection of the class, or in a style discriminator."""
    spec = load_spec("digits_biggan", None, [STYLE, SAN[0]] if style else ["networks.discriminator.width=8", *SAN])
    rng = np.random.default_rng(0)
    low = lower(spec)
    with emitted(low, spec, tmp_path / "project") as project:
        nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
        judge, update = nets["discriminator"], project.objective.UPDATES[0]
        x, z = torch.tensor(rng.standard_normal((6, 1, 8, 8))), torch.tensor(rng.standard_normal((6, 32)))
        y, labels = (torch.tensor(rng.integers(0, 10, 6)) for _ in range(2))
        told = {} if style else {"y": y}
        found = update.loss(nets["main"], judge, x=x, **told, z=z, labels=labels)
        images = torch.cat([x, nets["main"](z, labels).detach()])
        if style:
            last, weight = judge.hidden, judge.score.weight
        else:
            last = judge.blocks[-1]
            table = judge.embed.weight
            # One step of the power iteration, from the vector that the table keeps.
            v = F.normalize(judge.embed.u @ table.detach(), dim=0)
            u = F.normalize(table.detach() @ v, dim=0)
            weight = (table / (u @ table @ v))[torch.cat([y, labels])] + F.normalize(judge.linear.weight, dim=1)
        kept: list[torch.Tensor] = []
        hook = last.register_forward_hook(lambda module, args, out: kept.append(out))
        judge(images, *([] if style else [torch.cat([y, labels])]))
        hook.remove()
        h = F.leaky_relu(kept[0], 0.2) if style else F.relu(kept[0]).sum((2, 3))
        direction, scale = F.normalize(weight, dim=1), weight.norm(dim=1, keepdim=True)
        bias = judge.score.bias if style else judge.linear.bias
        fun = (h * scale * direction.detach()).sum(1) + bias
        along = ((h * scale).detach() * direction).sum(1)
        hinge = F.relu(1 - fun[:6]).mean() + F.relu(1 + fun[6:]).mean()
        wanted = hinge + along[6:].mean() - along[:6].mean()
        assert float(found[0].detach()) == pytest.approx(float(wanted.detach()), rel=1e-9)
        weights = list(judge.parameters())
        both = [torch.autograd.grad(loss, weights) for loss in (found[0], wanted)]
        assert max(float(e.abs().max()) for e in both[1]) > 1e-3  # far above the bounds below
        assert all(torch.allclose(a, e, rtol=1e-7, atol=1e-10) for a, e in zip(*both, strict=True))
        assert all(a.abs().max() > 0 for a, w in zip(both[0], weights, strict=True) if w.ndim > 1)


def test_the_direction_is_trained_if_there_is_one() -> None:
    with pytest.raises(DiagnosticError, match=r"set `networks.discriminator.sliced: true`"):
        load_spec("digits_biggan", None, SAN[:1])
    with pytest.raises(DiagnosticError, match="no term trains the direction of `discriminator`'s last layer"):
        load_spec("digits_biggan", None, SAN[1:])
