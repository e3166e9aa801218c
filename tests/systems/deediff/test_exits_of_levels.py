"""Early exits of networks of several resolutions: what their layers restore, and engines that leave by a plan."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import random_weights
from tiny_systems import SYSTEMS

import latentc_runtime
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify
from latentc_runtime import exits

COUNT = 3


def sizes_of(system: str, after: list[int], *more: str) -> tuple[str, ...]:
    """Overrides of a tiny system with exits after these blocks."""
    own = [each for each in SYSTEMS[system].sizes if not each.startswith("sampler")]
    return (*own, f"networks.exits={{kind: early_exits, after: {after}}}", "objective.further=[early_exit]", *more)


def sampler(kind: str, plan: list[int], more: str = "") -> tuple[str, str]:
    return f"sampler={{kind: {kind}, steps: 3, {more}}}", f"programs=[{{kind: exit, dynamic: true, after: {plan}}}]"


@cache
def lowered_with(system: str, options: tuple[str, ...]) -> tuple[Lowered, dict[str, np.ndarray]]:
    """A system, and random weights of its exits."""
    low = lower(load_spec(SYSTEMS[system].spec, SYSTEMS[system].variant, list(options)))
    params = parameters(low.module, low.networks["exits"].methods["forward"].function)
    return low, random_weights(params, np.random.default_rng(0), 0.4)


def linear(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """A linear map of each place of maps [B, C, H, W]."""
    weight = w[f"{name}.weight"][:, :, 0, 0]
    return np.einsum("oc,bchw->bohw", weight, x) + w[f"{name}.bias"][:, None, None]


def enlarged(x: np.ndarray, by: int) -> np.ndarray:
    """Maps [B, C by^2, H, W] as [B, C, H by, W by]: channel c by^2 + i by + j is row i, column j of each place."""
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels // by**2, by, by, height, width)
    found = np.zeros((batch, channels // by**2, height * by, width * by))
    for i in range(by):
        for j in range(by):
            found[:, :, i::by, j::by] = parts[:, :, i, j]
    return found


def maps(tokens: np.ndarray, height: int, width: int) -> np.ndarray:
    return tokens.reshape(len(tokens), height, width, -1).transpose(0, 3, 1, 2)


def heads(low: Lowered, weights: dict[str, np.ndarray], i: int, *given: Any) -> np.ndarray:
    """The prediction of head i alone."""
    fn = low.module.functions[low.networks["exits"].methods["forward"].function]
    calls = [node for node in fn.nodes if node.op == "call" and node.attrs["name"] == f"heads.{i}"]
    (out,) = Interpreter(low.module, weights).run(calls[0].attrs["fn"], *given, prefix=f"heads.{i}")
    return np.asarray(out)


def exits_of(low: Lowered, weights: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]]:
    """Random inputs of the exits by name, and what they make of these."""
    fn = low.module.functions[low.networks["exits"].methods["forward"].function]
    rng = np.random.default_rng(1)
    given = {v.name: rng.standard_normal([2, *(int(d) for d in v.type.shape[1:])]) for v in fn.inputs}  # type: ignore[arg-type]
    return given, Interpreter(low.module, weights).run(fn.name, *given.values())


def test_tokens_of_a_lower_resolution_are_restored_on_a_rectangle() -> None:
    """DiCo on 8 x 12 latents: tokens of 4 x 6 places become 8 x 12, and first features are added."""
    data = "data={kind: npz, path: x.npz, shape: [1, 8, 12], classes: 10}"
    low, w = lowered_with("dico", (*sizes_of("dico", [1, 3, 5]), data, *sampler("ddim", [1, 3, 9], "guidance: null, ")))
    given, made = exits_of(low, w)
    shapes = [given[f"features_{i}"].shape[1:] for i in range(3)]
    assert shapes == [(96, 8), (24, 16), (6, 32)] and given["stem"].shape[1:] == (96, 8)
    context = [v for name, v in given.items() if name != "t" and not name.startswith(("features", "stem"))]
    for i, (by, places) in enumerate(((1, (8, 12)), (2, (4, 6)), (4, (2, 3)))):
        features, first = maps(given[f"features_{i}"], *places), maps(given["stem"], 8, 12)
        x = enlarged(linear(w, f"restored_{i}.features", features), by) + linear(w, f"restored_{i}.stem", first)
        wanted = heads(low, w, i, x.reshape(2, 16, 96).transpose(0, 2, 1), *context)
        np.testing.assert_allclose(made[i], wanted, atol=1e-9)


def test_what_levels_add_to_the_output_is_restored_until_it_is_there() -> None:
    """A U-Net whose output is a sum over its levels: block 7 returns before the lower level adds to it, 8 after."""
    low, w = lowered_with("edm", (*sizes_of("edm", [1, 6, 8]), "backbone.decoder=skip", *sampler("euler", [1, 6, 10])))
    given, made = exits_of(low, w)
    names = [name for name in given if name.startswith("features")]
    assert names == ["features_0", "features_1", "features_2", "features_2_1"]
    stem = linear(w, "restored_1.stem", given["stem"])
    below = given["features_1"]
    x = enlarged(linear(w, "restored_1.features", below), 2) + stem
    np.testing.assert_allclose(made[1], heads(low, w, 1, x, linear(w, "restored_1_1.features", below)), atol=1e-9)
    x = linear(w, "restored_2.features", given["features_2"]) + linear(w, "restored_2.stem", given["stem"])
    np.testing.assert_allclose(made[2], heads(low, w, 2, x, given["features_2_1"]), atol=1e-9)
    whole = given["features_0"]  # at the output's resolution, twice that of what the lower level adds
    squares = np.stack([whole[:, :, i::2, j::2] for i in range(2) for j in range(2)], 2)
    weight = w["restored_0_1.features.weight"].reshape(3, 16, 4)
    added = np.einsum("ock,bckhw->bohw", weight, squares) + w["restored_0_1.features.bias"][:, None, None]
    np.testing.assert_allclose(made[0], heads(low, w, 0, whole, added), atol=1e-9)


@pytest.mark.parametrize(
    ("system", "after", "plan", "options"),
    [
        ("ascan", [1, 3], [3, 1, 3], sampler("ddim", [3, 1, 3], "guidance: null, ")),  # never the whole network
        ("edm", [6, 8], [8, 6, 10], sampler("euler", [8, 6, 10])),
    ],
)
def test_engines_leave_by_a_plan(
    system: str, after: list[int], plan: list[int], options: tuple[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    more = ("backbone.decoder=residual",) if system == "edm" else ()
    made = tiny_bundle(SYSTEMS[system].spec, tmp_path / system, (*sizes_of(system, after, *more), *options))
    report = verify(made)
    assert report.ok, report.text()
    pipe, classes, seeds = latentc_runtime.load(made, "cpu"), np.arange(COUNT), np.arange(COUNT)
    ours, numbers = pipe.sample(classes, seeds), [sorted({*after, *plan}).index(block) + 1 for block in plan]
    host = exits.sample(pipe, classes, seeds, plan=numbers)
    np.testing.assert_allclose(host.samples, ours, rtol=0, atol=2e-5 * abs(ours).max())


@pytest.mark.parametrize(
    ("system", "options", "says"),
    [
        ("tread", (), "it behaves differently in training: tokens skip blocks, or it returns more"),
        ("cad", ("backbone.blocks=2",), "it passes what its last block returns to the next evaluation"),
    ],
)
def test_what_cannot_have_exits(system: str, options: tuple[str, ...], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec(SYSTEMS[system].spec, SYSTEMS[system].variant, list(sizes_of(system, [1], *options)))
