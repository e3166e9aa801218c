"""Takes crossed specs from a file to a verified bundle: whatever `check` accepts trains, compiles and verifies.

The optimiser takes two steps on random data. The bundle has the trained weights with noise added, since layers that
start at zero would hide what feeds them.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from crossed import MISTAKES, crossed
from forked import python

from latentc import api
from latentc.checkpoint import network_params
from latentc.components.contract import Lowered
from latentc.components.read_fields import fields_of_project
from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.spec import Spec
from latentc.spec.write import yaml_from_data
from latentc.verify.rounding import MOST
from latentc.verify.run import verify
from latentc.weights import materialise, read_safetensors

SLOWEST = 60  # seconds of processor time that a case may take, without its training
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (60, 60))"  # of training
ROWS = 8
REWARDS = """
def score(samples, batch):
    return samples.flatten(1).float().mean(1)
"""  # the module that a spec of rewards names
REFUSED = ("the loss is nan", "the loss is inf", "grad_norm is")


def run(seed: int) -> str:
    """The outcome of a case: how far it came, or the codes of its diagnostics. Raises whatever else happens."""
    data, changes = crossed(seed)
    folder = Path(f"case-{seed}").absolute()
    try:
        return end_to_end(prepared(data), folder)
    except Exception as error:
        raise AssertionError("; ".join(changes)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepared(data: dict[str, Any]) -> dict[str, Any]:
    """The data of the spec for a short training, without the files of weights that nobody has here."""
    train = data.get("train")
    if isinstance(train, dict):
        train |= {"batch_size": 4, "accumulate": 1, "workers": 0, "steps": 2, "log_every": 1, "parallel": "none"}
        train["compile"] = False  # takes minutes, and has tests of its own
        train["schedule"] = {**(train.get("schedule") or {}), "warmup": 0}
    for network in data["networks"].values():
        if isinstance(network, dict) and network.get("pretrained") is not None and network.get("kind") != "adapter":
            network["pretrained"] = None
    if isinstance(data.get("data"), dict):
        data["data"]["first_stage"] = None
    return data


def end_to_end(data: dict[str, Any], folder: Path) -> str:
    """The outcome of a spec."""
    folder.mkdir()
    file = folder / "spec.yaml"
    file.write_text(yaml_from_data(data))
    try:
        spec = api.check(file)
        api.emit(file, folder / "project")
    except DiagnosticError as error:
        return codes(error)
    lowered = lower(spec)
    trained = train(spec, lowered, folder / "project")
    weights = noisy(lowered, trained, random.Random(0))
    if not lowered.programs:
        return f"{'trained' if trained else 'emitted'}, no sampler"
    try:
        api.compile(file, weights, folder / "bundle", max_batch=4)
    except DiagnosticError as error:
        assert not {"E0410", "E0509", "E0602"} & {one.code for one in error.diagnostics}, (
            f"a bundle that lacks something: {error}"
        )
        return f"compile: {codes(error)}: {error.diagnostics[0].message[:90]}"
    report = verify(folder / "bundle", budget=15)
    failed = [c for c in report.comparisons if not c.ok]
    if failed and not report.broken and all((c.rounding or 0) > MOST for c in failed):
        return "ill-conditioned: float32 itself is too far off to verify anything"
    assert report.ok, report.text()
    return f"{'trained' if trained else 'emitted'} and verified"


def codes(error: DiagnosticError) -> str:
    found = sorted({diagnostic.code for diagnostic in error.diagnostics})
    assert found and set(found) <= set(shipped.codes()) - MISTAKES, found
    return " ".join(found)


def train(spec: Spec, lowered: Lowered, project: Path) -> dict[str, np.ndarray]:
    """The weights after two steps; none if nothing is trained here."""
    if not (project / "train.py").exists() or spec.data.kind not in ("npz", "digits"):
        return {}
    if spec.data.kind == "npz":
        np.savez(project / Path(spec.data.path).name, **arrays(spec, lowered))  # type: ignore[attr-defined]
    (project / "rewards.py").write_text(REWARDS)
    flags = ["--data.path", Path(spec.data.path).name] if spec.data.kind == "npz" else []  # type: ignore[attr-defined]
    done = python(project, "train.py", "--out", "run", *flags, before=LIMIT)
    if done.returncode and "Traceback" not in done.stderr and any(text in done.stderr for text in REFUSED):
        return {}  # it diverged
    assert done.returncode == 0, f"train.py ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
    weights = project / "run" / "weights.safetensors"
    return {name: np.asarray(materialise(e)) for name, e in read_safetensors(weights).items()}


def arrays(spec: Spec, lowered: Lowered) -> dict[str, np.ndarray]:
    """Random data with the fields that training reads."""
    rng, made = np.random.default_rng(0), {}
    keys = getattr(spec.data, "keys", {})
    for name in spec.data.settings(fields_of_project(spec, lowered.updates))["fields"]:
        field = spec.data.fields[name]
        shape = (ROWS, *field.shape)
        if field.dtype == "bool":
            value = rng.random(shape) < 0.7
            value[:, ..., :1] = True
        elif field.classes is not None:
            value = rng.integers(0, field.classes, shape)
        elif field.dtype == "i64":
            value = rng.integers(0, 2, shape)
        else:
            value = rng.uniform(-1, 1, shape).astype(np.float32)
        made[keys.get(name, name)] = value
    return made


def noisy(lowered: Lowered, trained: dict[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """The trained weights, or initial ones, of all networks, with noise of a twentieth."""
    rng, found = np.random.default_rng(chance.getrandbits(32)), {}
    alone = len(lowered.networks) == 1
    for name, network in lowered.networks.items():
        for path, param in network_params(lowered, network).items():
            shape = tuple(int(d) for d in param.type.shape)
            if param.kind not in ("weight", "state"):
                continue
            key = path if alone and path in trained else f"{name}.{path}"
            own = trained.get(key)
            value = INITS[param.init.kind](rng, shape, **param.init.args) if own is None else own
            if param.kind == "weight":
                value = value + 0.05 * rng.standard_normal(shape)
            found[f"{name}.{path}"] = np.asarray(value, np.float32)
    return found
