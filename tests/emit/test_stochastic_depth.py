"""Stochastic depth: which branches samples skip, how often, and what becomes of the others."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from tiny_systems import SYSTEMS
from torch import Tensor
from torch_module import loaded, model_text

from latentc.ir.text import text_from_module
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec

IWIN = ("data.classes=3", "data.class_names=null", "data.shape=[3, 16, 16]", "backbone.block.mixer.size=2")
IWIN += ("backbone.width=8", "backbone.multipliers=[1, 2]", "backbone.depths=[2, 3]", "backbone.heads=[1, 2]")
SINGLE = (*SYSTEMS["var"].sizes, "networks.main.block.condition={kind: adaln_single}")
THREE = np.repeat([0.0, 0.2, 0.4], 2)  # both branches of three blocks
# spec, sizes, network that is called, its depth, the probabilities in the order of the branches
CASES: dict[str, tuple[str, tuple[str, ...], str, Any]] = {
    "var": ("var", (*SYSTEMS["var"].sizes, "networks.main.depth=3"), "networks.main", THREE),
    "var-single": ("var", (*SINGLE, "networks.main.depth=3"), "networks.main", THREE),
    "nvg": ("nvg", (*SYSTEMS["nvg"].sizes, "networks.main.depth=3"), "networks.main", [0.0, 0.2, 0.4]),
    # Blocks 0 to 4 add what the one before computed, the last norm what block 4 did.
    "dis": ("dis", (*SYSTEMS["dis"].sizes, "backbone.half=2"), "backbone", [0, 0, 0.4 / 3, 0.8 / 3, 0.4, 0.4]),
    "iwin": ("iwin_classifier", IWIN, "backbone", np.repeat([0.0, 0.1, 0.2, 0.3, 0.4], 2)),
    "rin": ("rin", (*SYSTEMS["rin"].sizes, "backbone.layers=2", "backbone.blocks=1"), "backbone", [0.4] * 4),
}


def build(spec: str, sizes: tuple[str, ...]) -> tuple[dict[str, Any], Any, list[Tensor]]:
    """The emitted file, its network with random weights, and inputs."""
    lowered = lower(load_spec(spec, overrides=sizes))
    file = loaded(model_text(lowered))
    torch.manual_seed(0)
    model = file["NETWORKS"]["main"]()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    ports = lowered.networks["main"].methods["forward"].inputs
    inputs = [
        torch.randn(6, *(int(n) for n in port.type.shape[1:]))
        if port.type.is_float
        else torch.zeros(6, *(int(n) for n in port.type.shape[1:]), dtype=torch.long)
        for port in ports
    ]
    return file, model, inputs


@pytest.mark.parametrize("name", CASES)
def test_branches_are_skipped_as_often_as_the_authors_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, sizes, network, rates = CASES[name]
    file, model, inputs = build(spec, (*sizes, f"{network}.drop_path=0.4"))
    _, plain, _ = build(spec, (*sizes, f"{network}.drop_path=0"))
    plain.load_state_dict(model.state_dict())
    found: list[float] = []

    def noted(x: Tensor, rate: Any, training: bool) -> Tensor:
        assert training
        found.append(float(rate))
        return x

    def first(outputs: Any) -> Tensor:
        return outputs if isinstance(outputs, Tensor) else outputs[0]

    wanted = first(plain.train()(*inputs))
    assert torch.allclose(first(model.eval()(*inputs)), first(plain.eval()(*inputs)))
    monkeypatch.setitem(file, "drop_path", noted)
    assert torch.allclose(first(model.train()(*inputs)), wanted)
    assert np.allclose(found, rates, atol=1e-6)


def test_engines_know_nothing_of_it() -> None:
    texts = []
    for rate in (0, 0.4):
        spec = load_spec("dis", overrides=[*SYSTEMS["dis"].sizes, f"backbone.drop_path={rate}"])
        texts.append(re.sub(r"_\d+", "", text_from_module(optimised(lower(spec), spec).module)))
    assert texts[0] == texts[1]


def test_a_sample_skips_a_branch_as_a_whole() -> None:
    file, _, _ = build("dis", (*SYSTEMS["dis"].sizes, "backbone.drop_path=0.4"))
    x = torch.randn(4000, 3, 2)
    torch.manual_seed(1)
    dropped = file["drop_path"](x, torch.tensor(0.3), True)
    kept = (dropped != 0).flatten(1)
    assert torch.equal(kept.any(1), kept.all(1))
    assert abs(kept.all(1).float().mean() - 0.7) < 0.03
    assert torch.allclose(dropped[kept.all(1)], x[kept.all(1)] / 0.7)
    assert file["drop_path"](x, 0.3, False) is x
