"""Training of the classifier whose heads give the ratios of densities of a frozen generator's samples and data.

Symbols: B batch, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B


class RatioClassification(Objective):
    """Trains the heads of network `classifier` on data and on samples of the frozen `main` (S2M, Cho et al. 2022,
    arXiv:2206.05764).

    The loss is the sum of three: the logistic loss of data against samples, the cross-entropy of the label of data and,
    if `main` takes the class, that of the class that a sample was made for, which is drawn uniformly.
    """

    kind: Literal["ratio_classification"]
    validity_weight: float = Field(1.0, gt=0, le=1e6, description="weight of the loss of data against samples")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "ratio_classification"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "generate"), Need("classifier", "weigh_labels")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_generator(spec)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return ("classifier",)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, classifier = networks["main"], networks["classifier"]
        b = mb.function("loss")
        x, y = b.input("x", classifier.methods["forward"].input("state").type), b.input("y", i64(B))
        z = b.input("z", main.methods["forward"].input("noise").type)
        draws, cond = [Draw("z", "normal")], {}
        if takes_class(main):
            cond = {"y": b.input("labels", i64(B))}
            draws.append(Draw("labels", "integers", {"high": spec.data.classes}))
        fake = b.stop_gradient(call(b, main, "forward", cond, noise=z, out="fake"), out="fake")
        images = b.concat(x, fake, axis=0, out="images")  # one call, so that batch norms see both
        names = [port.name for port in classifier.methods["forward"].outputs]
        values = call(b, classifier, "forward", {}, state=images, out=" ".join(names))
        found = {name: _halves(b, value, name) for name, value in zip(names, values, strict=True)}
        real, made = (_mean(b, b.softplus(s)) for s in (b.neg(found["validity"][0]), found["validity"][1]))
        parts = {"validity": b.add(real, made, out="validity")}
        parts["of_data"] = _mean(b, b.cross_entropy(found["of_data"][0], y), "of_data")
        if cond:
            parts["of_samples"] = _mean(b, b.cross_entropy(found["of_samples"][1], cond["y"]), "of_samples")
        loss = parts["validity"] * self.validity_weight if self.validity_weight != 1 else parts["validity"]
        for name in list(parts)[1:]:
            loss = b.add(loss, parts[name], out="loss")
        b.output(loss, *parts.values())
        b.finish("The losses of the three heads, and their sum.")
        mb.entries["loss"] = "loss"
        return (Update("loss", ("classifier",), ("x", "y"), tuple(draws), ("loss", *parts)),)


def takes_class(network: Network) -> bool:
    """True if samples are made for a class."""
    return bool(network.methods["forward"].inputs_of("condition"))


def problems_of_generator(spec: Spec) -> Iterator[Problem]:
    """Refuses a generator that training changes, or one that takes more than the class."""
    main = spec.networks.get("main")
    if not isinstance(main, Backbone):
        return
    if main.trainable:
        yield Problem((), "network `main` is not frozen", "name its checkpoint in `networks.main.pretrained`")
    if others := [name for name in main.takes(spec) if name != "class"]:
        message = f"`main` takes condition `{others[0]}`, but labels decide only the class of its samples"
        yield Problem((), message, "set `networks.main.conditions: [class]`, or `[]`")


def _halves(b: Builder, value: Var, name: str) -> tuple[Var, ...]:
    return b.split(value, axis=0, sizes=(B, B), out=f"{name}_of_real {name}_of_fake")


def _mean(b: Builder, x: Var, out: str = "") -> Var:
    return b.mean(x, axes=(0,), keepdims=False, out=out)
