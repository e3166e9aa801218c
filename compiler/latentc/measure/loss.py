"""A training loss on given inputs and draws, by the oracle or by the emitted PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

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
    use the batch, dropout drops); else as for sampling. Raises DiagnosticError: E0702, E0706.
    """
    fn = lowered.module.entry(update.loss)
    operands = checked_inputs("the loss", fn.inputs, inputs)
    names = [name.rsplit("/", 1)[-1] for name in update.metrics or ("loss",)]
    if backend == "oracle":
        values = {f"{name}.{path}": array for name, own in weights.items() for path, array in arrays(own).items()}
        results: Sequence[Array] = Interpreter(lowered.module, values, training=training).run(update.loss, *operands)
        return dict(zip(names, results, strict=True))
    torch = needed("torch", "the backend `torch`", 'pip install "latentc[torch]"')
    model, objective = project_modules(lowered, spec, ("model", "objective"))
    emitted = next(u for u in objective.UPDATES if u.metrics == (update.metrics or ("loss",)))
    models = []
    for name in emitted.networks:
        net = model.NETWORKS[name]().train(training)
        load_arrays(net, {path: materialise(expr) for path, expr in weights[name].items()})
        models.append(net)
    given = {v.name: torch.from_numpy(np.ascontiguousarray(x)) for v, x in zip(fn.inputs, operands, strict=True)}
    with torch.no_grad():
        outs = emitted.loss(*models, **given)
    outs = outs if isinstance(outs, tuple) else (outs,)
    return {name: out.numpy() for name, out in zip(names, outs, strict=True)}


__all__ = ["run_loss", "update_called"]
