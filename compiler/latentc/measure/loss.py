"""A training loss on given inputs and draws, by the oracle or by the emitted PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from latentc.checkpoint import arrays
from latentc.components.contract import Lowered, Update
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.faults import needed
from latentc.ir.interpret import Interpreter
from latentc.measure.emitted import load_arrays, project_modules
from latentc.measure.forward import Array, checked_inputs
from latentc.spec import Spec
from latentc.weights import Expr, materialise

Weights = Mapping[str, Mapping[str, Expr]]
"""{network: {state-dict path: tensor}}."""


def update_called(lowered: Lowered, name: str | None) -> Update:
    """The update of that name, by default the first. DiagnosticError E0702 if there is none."""
    if not lowered.updates:
        raise DiagnosticError(
            Diagnostic("E0702", "the spec has no objective", help="add one, or extend a spec with one")
        )
    found = next((u for u in lowered.updates if name is None or u.name == name), None)
    if found is None:
        names = [u.name for u in lowered.updates if u.name]
        close = nearest(name or "", names)
        mend = f"did you mean `{close}`?" if close else f"its losses are {', '.join(names) or 'one without a name'}"
        raise DiagnosticError(Diagnostic("E0702", f"the objective has no loss `{name}`", help=mend))
    return found


def run_loss(
    spec: Spec,
    lowered: Lowered,
    update: Update,
    weights: Weights,
    inputs: Mapping[str, ArrayLike],
    backend: Literal["oracle", "torch"] = "oracle",
    training: bool = False,
) -> dict[str, Array]:
    """The metrics of a loss by name, each a scalar: f64 by the oracle, f32 by PyTorch.

    `inputs`: the data's fields and the random draws, by name. `training`: as `train.py` runs the networks (batch norms
    use the batch, dropout drops); else as for sampling. Losses that layers add to the gradients alone, such as the
    balance of experts, are no part of a metric: in training their sum is one more metric, `auxiliary`. Raises
    DiagnosticError: E0702, E0706.
    """
    fn = lowered.module.entry(update.loss)
    operands = checked_inputs("the loss", fn.inputs, inputs)
    names = [name.rsplit("/", 1)[-1] for name in update.metrics or ("loss",)]
    if backend == "oracle":
        values = {f"{name}.{path}": array for name, own in weights.items() for path, array in arrays(own).items()}
        oracle = Interpreter(lowered.module, values, training=training)
        results: Sequence[Array] = oracle.run(update.loss, *operands)
        return {**dict(zip(names, results, strict=True)), **_auxiliary(oracle.auxiliary)}
    torch = needed("torch", "the backend `torch`", 'pip install "latentc[torch]"')
    modules = project_modules(lowered, spec, ("model", "objective"))
    model, objective = modules["model"], modules["objective"]
    emitted = next(u for u in objective.UPDATES if u.metrics == (update.metrics or ("loss",)))
    models = []
    for name in emitted.networks:
        net = model.NETWORKS[name]().train(training)
        load_arrays(net, {path: materialise(expr) for path, expr in weights[name].items()})
        models.append(net)
    given = {v.name: torch.from_numpy(np.ascontiguousarray(x)) for v, x in zip(fn.inputs, operands, strict=True)}
    added: list[Any] = []
    with torch.no_grad(), _noted(model, added if training else None):
        outs = emitted.loss(*models, **given)
    outs = outs if isinstance(outs, tuple) else (outs,)
    return {
        **{name: out.numpy() for name, out in zip(names, outs, strict=True)},
        **_auxiliary([one.numpy() for one in added]),
    }


def _auxiliary(losses: Sequence[Array]) -> dict[str, Array]:
    """Their sum as a metric, if there are any."""
    return {"auxiliary": np.sum(np.stack(losses), axis=0)} if losses else {}


@contextlib.contextmanager
def _noted(model: ModuleType, losses: list[Any] | None) -> Iterator[None]:
    """The emitted networks put the losses that they add to gradients into `losses`."""
    helper = getattr(model, "AuxiliaryLoss", None)
    if helper is None or losses is None:
        yield
        return

    def apply(x: Any, loss: Any) -> Any:
        losses.append(loss)
        return x

    model.AuxiliaryLoss = SimpleNamespace(apply=apply)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        model.AuxiliaryLoss = helper  # type: ignore[attr-defined]
