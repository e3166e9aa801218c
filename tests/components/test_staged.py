"""FlashDiT, DiffiT, AsCAN and DiCo against their papers' equations, by every backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import staged_references as references

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

IWIN = ("data.shape=[4, 8, 8]", "data.classes=3", "backbone.width=16", "backbone.depth=2", "backbone.patch=1")
IWIN += ("backbone.block.mixer.size=4", "backbone.block.mixer.mixer.heads=2", "backbone.block.feed_forward.hidden=24")
DIFFIT = ("data.shape=[4, 8, 8]", "data.classes=3", "backbone.width=16", "backbone.depth=2")
DIFFIT += ("backbone.block.mixer.heads=2",)
IMAGE = ("data.shape=[3, 8, 8]", "data.augment=0", "conditioning.augment=null", "backbone.width=8")
IMAGE += ("backbone.multipliers=[1, 2, 1]", "backbone.depths=[2, 1, 1]", "backbone.embedding=12")
IMAGE += ("backbone.block.mixer.size=4", "backbone.block.mixer.mixer.heads=2")
IMAGE += ("backbone.block.condition.convolution_groups=4", "conditioning.time={kind: timestep, frequencies: 16}")
STAGES = {"convolutions": (1, 1, 2), "depths": (0, 1, 1), "heads": (2, 4, 2)}
ASCAN = ("data.shape=[4, 8, 8]", "data.classes=3", "backbone.width=8", "backbone.multipliers=[1, 2, 1]")
ASCAN += (*(f"backbone.{name}={list(entries)}" for name, entries in STAGES.items()), "backbone.embedding=12")
ASCAN += ("backbone.convolution.groups=4",)
DICO = ("data.shape=[4, 8, 12]", "data.classes=3", "backbone.width=8", "backbone.multipliers=[1, 2, 1]")
DICO += ("backbone.depths=[1, 1, 1]",)
CASES: dict[str, tuple[str, str | None, tuple[str, ...], Any, dict[str, Any]]] = {
    "iwin": ("iwin", None, IWIN, references.flash_dit, {"patch": 1, "depth": 2, "heads": 2, "window": 4}),
    "diffit": ("diffit", None, DIFFIT, references.diffit, {"patch": 2, "depth": 2, "heads": 2}),
    "diffit_image": (
        "diffit_image",
        None,
        IMAGE,
        references.diffit_image,
        {"depths": (2, 1, 1), "heads": 2, "window": 4},
    ),
    "heads of a width of their own": (
        *("diffit", None, (*DIFFIT, "backbone.block.mixer.head_width=5"), references.diffit),
        {"patch": 2, "depth": 2, "heads": 2},
    ),
    "ascan": ("ascan", None, ASCAN, references.ascan, STAGES),
    "dico of a rectangle": ("dico", None, DICO, references.dico, {"multipliers": (1, 2, 1), "width": 8}),
}


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("name", CASES)
def test_the_network_is_the_papers(name: str, backend: str, tmp_path: Path) -> None:
    path, variant, sizes, reference, options = CASES[name]
    spec = load_spec(path, variant, list(sizes))
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    params = network_params(lowered, lowered.networks["main"])
    weights = {n: rng.normal(size=p.type.shape) * 0.3 for n, p in params.items() if p.kind == "weight"}
    write_safetensors(tmp_path / "w.safetensors", {n: Array(a.astype(np.float32)) for n, a in weights.items()})
    ports = lowered.networks["main"].methods["forward"].inputs
    given = {"x": rng.normal(size=(2, *spec.data.shape)), "t": np.array([0.3, 7.0]), "y": np.array([1, 3])}
    given = {port.name: given[port.name].astype("i8" if port.name == "y" else "f4") for port in ports}
    exact = {n: a.astype(np.float32).astype(np.float64) for n, a in weights.items()}
    wanted = reference(exact, **given, **options)
    (found,) = api.run_method(
        path, [f"main={tmp_path / 'w.safetensors'}"], given, backend, variant=variant, overrides=sizes
    ).values()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5


@pytest.mark.parametrize(
    ("system", "options", "words"),
    [
        ("dico", ["data.shape=[4, 32, 34]"], "34 cannot be halved"),
        ("diffit_image", ["data.shape=[3, 32, 64]"], "needs a square of tokens"),
        ("iwin", [*IWIN, "backbone.block.mixer.size=3"], "windows of 3 do not tile 8 by 8 tokens"),
        ("maskgit", ["backbone.block.mixer.head_width=8"], "have width / `heads` channels"),
        ("mage", ["backbone.embedding.condition=last", "conditioning.class={kind: label}"], "before the tokens"),
        ("mage", ["backbone.embedding.condition=last"], "its condition or blank before the tokens"),
    ],
)
def test_what_does_not_fit_is_refused(system: str, options: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        lower(load_spec(system, None, options))


def test_a_window_of_all_tokens_leaves_the_convolution_s_gate_unused() -> None:
    lowered = lower(load_spec("iwin", None, [*IWIN, "backbone.block.mixer.size=8"]))
    params = network_params(lowered, lowered.networks["main"])
    assert not any("depthwise" in path for path in params)
    assert params["blocks.0.adaLN.weight"].type.shape[0] == 7 * 16  # scales and gates, as with a convolution


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="3 groups do not divide 8 channels"):
        lower(load_spec("diffit_image", None, [*IMAGE[:-2], "backbone.block.condition.convolution_groups=3"]))


def test_guidance_of_a_network_without_conditions_is_refused() -> None:
    with pytest.raises(DiagnosticError, match="network `main` takes none"):
        lower(load_spec("diffit", None, [*DIFFIT, "backbone.conditions=[]"]))
