"""Weights under the authors' names give the authors' numbers by every backend, and are written back unchanged."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, Forward, Loss, Sampler
from emitted import emitted
from parity_data import Numbers, error, load

import latentc_runtime
from latentc import api
from latentc.checkpoint import arrays, network_weights, write_weights
from latentc.components.contract import Lowered
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.forward import run_method
from latentc.spec import load_spec
from latentc.weights import Array, read_safetensors, write_safetensors
from latentc.weights.read import materialise
from latentc_runtime.sources import ConditionSource, RandomSource

HELPERS = ("cases", "test_official")
# Numbers with all tensors of a file, and which of them the authors' code leaves unused.
WHOLE: dict[str, set[str]] = {n: set() for n in ("dit", "sit", "dit_moe.eval", "diffmoe.diffmoe", "tarflow.fwd")}
WHOLE["rcg.dit"] = {"y_embedder.embedding_table.weight"}
MODULES = [p.stem for p in sorted(Path(__file__).parent.glob("*.py")) if p.stem not in HELPERS]
CASES: list[Case] = [case for module in MODULES for case in importlib.import_module(module).CASES]


def of(kind: type[Case]) -> Any:
    return pytest.mark.parametrize("case", [c for c in CASES if type(c) is kind], ids=lambda case: case.numbers)


@lru_cache(maxsize=8)
def lowered_of(name: str, variant: str | None, sizes: tuple[str, ...]) -> tuple[Any, Lowered]:
    """A spec and what it is lowered to, once for all backends."""
    spec = load_spec(name, variant, list(sizes))
    return spec, lower(spec)


@dataclass(frozen=True)
class Official:
    """A case's numbers, its spec, what that is lowered to, and a weights file per network."""

    case: Case
    numbers: Numbers
    spec: Any
    lowered: Lowered
    files: list[str]

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The weights of the networks that the case is about, by latentc's own names."""
        networks = [self.case.network] if isinstance(self.case, Forward) else None
        return network_weights(self.spec, self.lowered, self.files, self.case.names, None, networks)


FOLDER = tempfile.TemporaryDirectory(prefix="latentc-parity-")


@lru_cache(maxsize=4)
def official(case: Case) -> Official:
    """What all backends share; tests of a case follow one another."""
    numbers, folder = load(case.numbers), Path(tempfile.mkdtemp(dir=FOLDER.name))
    spec, lowered = lowered_of(case.spec, case.variant, tuple(case.sizes))
    files = []
    for network, prefix in case.prefixes.items():
        others = tuple(other for other in case.prefixes.values() if len(other) > len(prefix))
        names = [n for n in numbers.weights if n.startswith(prefix) and not n.startswith(others)]
        own = {n.removeprefix(prefix): Array(numbers.weights[n]) for n in names}
        write_safetensors(folder / f"{network}.safetensors", own)
        files.append(f"{network}={folder / network}.safetensors")
    return Official(case, numbers, spec, lowered, files)


def by_name(case: Case, numbers: Numbers, spec: Any, names: list[str]) -> list[np.ndarray]:
    given = case.inputs(numbers, spec)
    return [np.asarray(given[name]) for name in names]


def check(case: Case, out: Any, numbers: Numbers, spec: Any) -> None:
    """`out`: an array, or several by name."""
    found = error(case.output(out if isinstance(out, dict) else np.asarray(out), numbers, spec), case.wanted(numbers))
    assert found < case.tolerance, found


def tensors(given: list[np.ndarray]) -> list[torch.Tensor]:
    floats = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in given]
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in floats]


def built(project: Any, weights: dict[str, Any], name: str) -> torch.nn.Module:
    model = project.model.NETWORKS[name]().eval()
    kept = model.state_dict()
    own = arrays(weights).items()
    model.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in own if n in kept})
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx", "openvino"])
@of(Forward)
def test_forward(case: Forward, backend: str) -> None:
    one = official(case)
    names = [port.name for port in one.lowered.networks[case.network].methods[case.method].inputs]
    given = dict(zip(names, by_name(case, one.numbers, one.spec, names), strict=True))
    outs = run_method(one.spec, one.lowered, one.weights[case.network], given, backend, case.network, case.method)
    check(case, outs if case.every_output else next(iter(outs.values())), one.numbers, one.spec)


@of(Forward)
def test_weights_come_back_under_the_official_names(case: Forward, tmp_path: Path) -> None:
    one, back = official(case), tmp_path / "back.safetensors"
    own = {case.network: one.weights[case.network]}
    write_weights(one.spec, one.lowered, own, back, case.names, {})
    if case.numbers in WHOLE:
        written = {name: materialise(tensor) for name, tensor in read_safetensors(back).items()}
        assert written.keys() == one.numbers.weights.keys()
        for name in written.keys() - WHOLE[case.numbers]:
            assert np.allclose(written[name], one.numbers.weights[name], rtol=1e-5, atol=1e-6), name
    given = [f"{case.network}={back}"]
    again = network_weights(one.spec, one.lowered, given, case.names, None, [case.network])[case.network]
    for name, tensor in own[case.network].items():
        assert np.array_equal(materialise(tensor), materialise(again[name])), name


@pytest.mark.parametrize("backend", ["oracle", "torch"])
@of(Loss)
def test_loss(case: Loss, backend: str) -> None:
    one = official(case)
    (update,) = one.lowered.updates
    names = [*update.batch, *(draw.name for draw in update.draws)]
    given = dict(zip(names, by_name(case, one.numbers, one.spec, names), strict=True))
    sizes: Any = {"variant": case.variant, "overrides": case.sizes, "names": case.names}
    found = api.loss(case.spec, one.files, given, backend, **sizes)  # type: ignore[arg-type]
    assert error(next(iter(found.values())), case.wanted(one.numbers).mean()) < case.tolerance


SAMPLED = [(case, backend) for case in CASES if isinstance(case, Sampler) for backend in case.backends]


@pytest.mark.parametrize(("case", "backend"), SAMPLED, ids=lambda value: getattr(value, "numbers", value))
def test_sampler(case: Sampler, backend: str, tmp_path: Path) -> None:
    one = official(case)
    numbers, spec, lowered = one.numbers, one.spec, one.lowered
    program = lowered.programs[0]
    names = [value.name for value in lowered.module.entry(program.entry).inputs]
    given = dict(zip(names, by_name(case, numbers, spec, names), strict=True))
    if backend == "oracle":
        own = {f"{net}.{name}": a for net, weights in one.weights.items() for name, a in arrays(weights).items()}
        out, *_ = Interpreter(lowered.module, own).run(program.entry, *given.values())
    elif backend == "torch":
        with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
            made = project.sampler.PROGRAMS["sample"][program.steps]
            nets = [built(project, one.weights[name], name) for name in made.networks]
            out = made.sample(*nets, *tensors(list(given.values())))
            out = (out[0] if isinstance(out, tuple) else out).numpy()
    else:
        sizes = [*case.sizes, f"target.engine={backend}"]
        bundle = tmp_path / "bundle"
        given_names: Any = {"variant": case.variant, "overrides": sizes, "names": case.names}
        api.compile(case.spec, one.files, bundle, run=False, **given_names)
        pipe = latentc_runtime.load(bundle, device="cpu")
        told = {
            source.condition: given[name]
            for name, source in program.sources.items()
            if isinstance(source, ConditionSource) and source.part == "value"
        }
        noise = {name: given[name] for name, source in program.sources.items() if isinstance(source, RandomSource)}
        out = pipe.sample(conditions=told, noise=noise)
    check(case, out, numbers, spec)
