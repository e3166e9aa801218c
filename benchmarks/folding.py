"""BigGAN's generator at 128 × 128: the engine with its norms folded against the engine with them in its graph.

    python benchmarks/folding.py [--batch N] [--rounds N] [--threads N]

Random weights. All paths take turns in one run; times are the least of all rounds. `statistics` folds spectral norms
alone, so what it is slower than `folded` is what batch norms cost.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import turns, verdict

from latentc.checkpoint import network_params
from latentc.emit.model import model_source
from latentc.export.bundle import onnx_from_network
from latentc.ir.core import only_entry
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.measure.emitted import module_from_source
from latentc.measure.metrics import relative_error
from latentc.passes.fuse import FOLDING, RULES, Rule, fuse
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array
from latentc_runtime.backends import open_backend

ENGINES = ("onnxruntime", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        calls = _paths(Path(folder), args.batch, args.threads)
        results = {name: call() for name, call in calls.items()}
        times = turns(calls, args.rounds, settled=True)
    least = {name: min(taken) for name, taken in times.items()}
    for name, seconds in least.items():
        error = relative_error(results[name], results["PyTorch, eager"])
        print(f"{name:24} {1000 * seconds:8.1f} ms  relative error to PyTorch {error:.1e}")
    for engine in ENGINES:
        names = [f"{engine} {form}" for form in ("folded", "as it is")]
        print(verdict(f"{engine}: folded against as it is", least[names[1]] / least[names[0]], 1.0))


def _paths(folder: Path, batch: int, threads: int) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    feed = {"z": rng.standard_normal((batch, 120)).astype(np.float32), "y": rng.integers(0, 1000, batch)}
    calls: dict[str, Callable[[], Any]] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for engine in ENGINES:
        spec = load_spec("biggan", "128", [f"target.engine={engine}"])
        lowered = lower(spec)
        for name, p in network_params(lowered, lowered.networks["main"]).items():
            shape = tuple(map(int, p.type.shape))
            start = INITS["normal" if p.init.kind == "orthogonal" else p.init.kind](rng, shape, **p.init.args)
            arrays.setdefault(name, np.asarray(start + 0.1 * rng.random(shape), np.float32))
        forms: dict[str, Sequence[Rule]] = {"folded": FOLDING, "statistics": FOLDING[:1], "as it is": ()}
        rest = [rule for rule in RULES[engine] if rule not in FOLDING]
        for form, rules in forms.items():
            made = optimised(lowered, spec, "inline_norms")
            module = fuse(only_entry(made.module, "main.forward"), [*rules, *rest])
            place = folder / f"{engine}-{form}"
            place.mkdir()
            weights = {name: Array(value) for name, value in arrays.items()}
            path, external = onnx_from_network(replace(made, module=module), "main", "forward", weights, place)
            backend = open_backend("cpu", threads, engine)
            session = backend.engine(path, external)
            values = {name: backend.value(array) for name, array in feed.items()}
            calls[f"{engine} {form}"] = lambda s=session, v=values, b=backend: np.array(
                b.array(s.run(v, ["out"])["out"])
            )
    model = module_from_source(model_source(lowered), "model").build().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    inputs = [torch.from_numpy(feed[name]) for name in ("z", "y")]

    def eager() -> Any:
        with torch.inference_mode():
            return model(*inputs).numpy()

    return {"PyTorch, eager": eager, **calls}


if __name__ == "__main__":
    main()
