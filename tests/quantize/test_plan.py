"""The search for layers to quantise, with qualities that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from latentc.passes.quantize.plan import LayerQuant
from latentc.quantize.plan import _within_budget
from latentc.quantize.quality import Quality
from latentc.spec import load_spec

PARTS = {unit: (f"{unit}.weight",) for unit in ("main.a", "main.b", "main.c", "encoder.d", "encoder.e")}
PLAN = {paths[0]: LayerQuant("int8", False) for paths in PARTS.values()}


class Judge:
    """30 dB is the budget; `spoilt` names the layers that lose too much, whatever their own sensitivity."""

    def __init__(self, spoilt: set[str]) -> None:
        spec = load_spec("digits_dit", None, ["optimize.quantize={scheme: int8, budget: {psnr: 30}}"])
        self.model, self.spoilt = SimpleNamespace(settings=spec.optimize.quantize), spoilt

    def quality(self, plan: Any) -> Quality:
        return Quality(psnr=20.0 if self.spoilt & plan.keys() else 40.0)


def chosen(judge: Judge) -> set[str]:
    plan, quality = _within_budget(PLAN, PARTS, list(PARTS), judge, lambda *told: None, 60.0)  # type: ignore[arg-type]
    return set(plan) if quality.within(judge.model.settings.budget) else set()


def test_a_network_that_spoils_every_step_is_left_out_as_a_whole() -> None:
    """The encoder's layers come last in the order: bisection alone would leave out all layers of `main` first."""
    assert chosen(Judge({"encoder.d.weight", "encoder.e.weight"})) == {
        "main.a.weight",
        "main.b.weight",
        "main.c.weight",
    }


def test_layers_of_several_networks_are_found_by_bisection() -> None:
    plan = chosen(Judge({"main.a.weight"}))
    assert plan == {"encoder.d.weight", "encoder.e.weight"} or plan == set(PLAN) - {"main.a.weight"}
