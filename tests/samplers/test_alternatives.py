"""What tuning tries follows from the sampler files alone, and nothing outside of components names a kind."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import latentc
from latentc.components import kind_of, load, packages
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.edm import Edm
from latentc.components.processes.interpolant import Interpolant
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import Ddim
from latentc.tune.alternatives import alternatives, reference

TARGETS = {
    "discrete": Parameterization(Discrete(kind="discrete", schedule="cosine"), "noise"),
    "flow": Parameterization(Interpolant(kind="interpolant"), "flow_velocity"),
    "edm": Parameterization(Edm(kind="edm"), "preconditioned"),
}
OWN = Ddim.model_validate({"kind": "ddim", "steps": 12, "guidance": {"scale": 1.5}})


@pytest.mark.parametrize("name", TARGETS)
def test_alternatives_are_deterministic_and_guided_alike(name: str) -> None:
    target = TARGETS[name]
    found = list(alternatives(OWN, target))
    assert len({sampler.model_dump_json() for sampler in found}) == len(found) > 5
    for sampler in found:
        table = sampler.with_steps(6).table(target)
        assert not any(part.stochastic for part in table.parts()) and sampler.guidance == OWN.guidance
    assert ("euler" if name == "flow" else "ddim") in {sampler.kind for sampler in found}


def test_where_the_own_sampler_clips_all_do() -> None:
    clipping = OWN.model_copy(update={"clip": 1.0})
    found = list(alternatives(clipping, TARGETS["discrete"]))
    assert found and all(sampler.clip == 1.0 for sampler in found)  # type: ignore[attr-defined]
    assert len(found) < len(list(alternatives(OWN, TARGETS["discrete"])))


@pytest.mark.parametrize("name", TARGETS)
def test_the_reference_has_shorter_and_shorter_steps(name: str) -> None:
    kinds = [c for c in load("samplers").values() if issubclass(c, ArraySampler) and c.REFERENCE]
    assert len(kinds) == 1
    target = TARGETS[name]
    sampler = reference(OWN, target, 20)
    assert isinstance(sampler, kinds[0]) and sampler.steps == 20 and sampler.guidance == OWN.guidance
    steps = np.abs(np.diff(sampler.timesteps or ()))
    if name != "edm":  # whose clock is the noise level
        assert np.all(np.diff(steps) <= 1e-9)


def test_nothing_outside_of_components_imports_a_kind() -> None:
    """So that a new file is tuned, quantised and verified without a change elsewhere.

    The equals of diffusers' classes name kinds, as there is one for each class.
    """
    root = Path(latentc.__file__).parent
    folders = [path.parent for path in (root / "components").rglob("__init__.py")]
    names = {str(folder.relative_to(root / "components")) for folder in folders} - {"."} | packages.folders()
    kinds = {(cls.__module__, cls.__name__) for name in names for cls in load(name).values() if kind_of(cls)}
    assert len(kinds) > 80
    for path in root.rglob("*.py"):
        if any(path.is_relative_to(root / folder) for folder in ("components", "systems", "interchange/diffusers")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not kinds & {(node.module, alias.name) for alias in node.names}, path
