"""Runs emitted text in this process, for comparison with the interpreter."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentc.components.contract import Lowered
from latentc.emit.functions import Functions
from latentc.emit.model import SUPPORT, model_source
from latentc.emit.project import objective_source, sampler_source
from latentc.files.shipped import folder
from latentc.ir.core import Module, Param, parameters
from latentc.ir.inits import INITS
from latentc.ir.types import TensorType


def loaded(text: str, dtype: torch.dtype = torch.float32, **names: Any) -> dict[str, Any]:
    """The names that a text defines. In float64 the literal float32 of the text is float64 too.

    `names` are those that it imports from the project's constants.py.
    """
    text = text.replace(f"from {SUPPORT}.constants import CONSTANTS\n", "")
    if dtype == torch.float64:
        text = text.replace(".float()", ".double()").replace("torch.float32", "torch.float64")
    name = f"emitted_{abs(hash(text))}"
    module = sys.modules[name] = types.ModuleType(name)  # dataclasses look their module up
    module.__dict__.update(names)
    exec(compile(text, name, "exec"), module.__dict__)
    return module.__dict__


def side_file(constants: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """The names that model.py, objective.py and sampler.py import from a project's constants.py."""
    text = (folder("templates") / "project" / "support" / "constants.py").read_text()
    held = {name: torch.tensor(array) for name, array in constants.items()}
    scope = loaded(
        text.replace('load_file(Path(__file__).with_name("constants.safetensors"))', "HELD"),
        torch.get_default_dtype(),
        HELD=held,
    )
    return {"table": scope["table"], "CONSTANTS": scope["CONSTANTS"]}


def random_weights(module: Module, functions: Sequence[str], prefix: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """Weights of every function, none of them zero by design, so that every path shows in the output."""
    rng = np.random.default_rng(0)
    found: dict[str, Param] = {}
    for function in functions:
        found.update(parameters(module, function))
    values = {}
    for name, p in found.items():
        shape = tuple(int(d) for d in p.type.shape)  # type: ignore[arg-type]
        if p.kind == "buffer":
            values[name] = INITS[p.init.kind](rng, shape, **p.init.args)
        else:
            values[name] = rng.standard_normal(shape) * 0.2 + (1.0 if p.init.kind == "ones" else 0.0)
    return {f"{prefix}{name}": value for name, value in values.items()}


def random_input(type: TensorType, rng: np.random.Generator, high: int, batch: int = 2) -> np.ndarray[Any, Any]:
    shape = tuple(d if isinstance(d, int) else batch * d.factor for d in type.shape)
    return rng.standard_normal(shape) if type.is_float else rng.integers(0, high, shape)


def tensors(arrays: Sequence[np.ndarray[Any, Any]], dtype: torch.dtype) -> list[torch.Tensor]:
    made = [torch.tensor(a) for a in arrays]
    return [t.to(dtype) if t.is_floating_point() else t for t in made]


def network(text: str, weights: Mapping[str, np.ndarray[Any, Any]], dtype: torch.dtype) -> torch.nn.Module:
    """The emitted network `main` with these weights; the names must be those of the state dict."""
    model = loaded(text, dtype)["build"]().to(dtype)
    own = [name for name in model.state_dict() if not name.endswith(".num_batches_tracked")]
    model.load_state_dict({k: torch.from_numpy(v).to(dtype) for k, v in weights.items() if k in own})
    assert set(own) <= set(weights)
    buffers = dict(model.named_buffers())
    assert set(weights) - set(own) <= set(buffers)
    return model.eval()


def objective_and_sampler(lowered: Lowered, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Any], str]:
    functions = Functions(lowered.module)
    texts = [objective_source(lowered, functions), sampler_source(lowered, functions)]
    table = side_file(functions.constants)["table"]
    bare = [t.replace(f"from {SUPPORT}.constants import table\n", "") for t in texts]
    bare = [t.replace(f"from {SUPPORT}.", "from latentc_runtime.") for t in bare]
    held = {"table": table}
    if source := functions.schedules.source():
        bare[1] = bare[1].replace("import schedule\n", "")
        held["schedule"] = types.SimpleNamespace(**loaded(source, dtype))
    return loaded(bare[0], dtype, table=table), loaded(bare[1], dtype, **held), "\n".join(texts)


def error(actual: torch.Tensor, expected: np.ndarray[Any, Any]) -> float:
    """max |a - b| / max |reference|."""
    a = actual.detach().double().numpy()
    assert a.shape == expected.shape
    return float(np.max(np.abs(a - expected)) / max(1e-30, np.max(np.abs(expected))))


def model_text(lowered: Lowered) -> str:
    return model_source(lowered)


REPOSITORY = Path(__file__).resolve().parents[2]
