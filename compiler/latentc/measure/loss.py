"""A training loss on given inputs and draws, by the oracle or by the emitted PyTorch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from latentc.checkpoint import arrays, check_complete
from latentc.components.contract import Draw, Lowered, Update
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.diagnostics.faults import needed
from latentc.ir.interpret import Interpreter
from latentc.measure.emitted import load_arrays, project_modules
from latentc.measure.forward import Array, checked_inputs
from latentc.spec import Spec
from latentc.weights import Expr, materialise
from latentc_runtime.distributions import DISTRIBUTIONS

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

    `inputs`: the data's fields and the random draws, by name; those that the loss does not read may be left out.
    `training`: as `train.py` runs the networks (batch norms
    use the batch, dropout drops); else as for sampling. Losses that layers add to the gradients alone, such as the
    balance of experts, are no part of a metric: in training their sum is one more metric, `auxiliary`. Raises
    DiagnosticError: E0410, E0702, E0706.
    """
    fn = lowered.module.entry(update.loss)
    draws = {draw.name: _words(draw) for draw in update.draws}
    operands = checked_inputs("the loss", fn, inputs, about=dict.fromkeys(update.batch, "data") | draws)
    check_complete(lowered, fn.name, {f"{name}.{path}" for name, own in weights.items() for path in own})
    names = [name.rsplit("/", 1)[-1] for name in update.metrics or ("loss",)]
    if backend == "oracle":
        values = {f"{name}.{path}": array for name, own in weights.items() for path, array in arrays(own).items()}
        oracle = Interpreter(lowered.module, values, training=training)
        results: Sequence[Array] = oracle.run(update.loss, *operands)
        return {**dict(zip(names, results, strict=True)), **_auxiliary(oracle.auxiliary)}
    own = {name: {path: materialise(expr) for path, expr in weights[name].items()} for name in weights}
    return EmittedLosses(lowered, spec, own).metrics(update, operands, training)


class EmittedLosses:
    """The emitted project's networks and losses, in PyTorch, with `weights` {network: {path: array}}."""

    def __init__(self, lowered: Lowered, spec: Spec, weights: Mapping[str, Mapping[str, Array]]) -> None:
        self.torch: Any = needed("torch", "the backend `torch`", 'pip install "latentc[torch]"')
        self.lowered, self.weights = lowered, weights
        modules = project_modules(lowered, spec, ("model", "objective"))
        self.model, self.updates = modules["model"], modules["objective"].UPDATES

    def network(self, name: str, training: bool = False) -> Any:
        """A new module of a network, with its weights. KeyError if one is missing."""
        net = self.model.NETWORKS[name]().train(training)
        load_arrays(net, self.weights[name])
        return net

    def metrics(self, update: Update, operands: Sequence[Array], training: bool = False) -> dict[str, Array]:
        """The metrics of a loss by name, as `run_loss` returns them."""
        names = [name.rsplit("/", 1)[-1] for name in update.metrics or ("loss",)]
        added: list[Any] = []
        with self.torch.no_grad(), _noted(self.model, added if training else None):
            outs = self._outputs(update, operands, training)[0]
        return {
            **{name: out.numpy() for name, out in zip(names, outs, strict=True)},
            **_auxiliary([one.numpy() for one in added]),
        }

    def gradients(self, update: Update, operands: Sequence[Array]) -> dict[str, Array]:
        """{`network.path`: gradient of the loss} for the weights of the trained networks, as in inference.

        Losses that layers add to the gradients alone are left out; a weight that the loss does not read has zeros.
        """
        with _noted(self.model, []):
            outs, models = self._outputs(update, operands, False)
            named = {
                f"{n}.{path}": w for n in update.networks if n in models for path, w in models[n].named_parameters()
            }
            found = self.torch.autograd.grad(outs[0], list(named.values()), allow_unused=True)
        return {
            path: (self.torch.zeros_like(weight) if one is None else one).detach().numpy()
            for (path, weight), one in zip(named.items(), found, strict=True)
        }

    def _outputs(
        self, update: Update, operands: Sequence[Array], training: bool
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """The result of the loss, and the networks it was called with."""
        emitted = next(u for u in self.updates if u.metrics == (update.metrics or ("loss",)))
        models = {name: self.network(name, training) for name in emitted.networks}
        inputs = self.lowered.module.entry(update.loss).inputs
        given = {v.name: self.torch.from_numpy(np.array(x, order="C")) for v, x in zip(inputs, operands, strict=True)}
        outs = emitted.loss(*models.values(), **given)
        return outs if isinstance(outs, tuple) else (outs,), models


def _words(draw: Draw) -> str:
    """How a random input is drawn in training, and what its values do."""
    low, high = DISTRIBUTIONS[draw.distribution].bounds(draw.parameters)
    within = f" from {low:g} to {high:g}" if math.isfinite(low) and math.isfinite(high) else ""
    others = ", ".join(f"{key} {value}" for key, value in draw.parameters.items() if key not in ("low", "high"))
    return "; ".join(filter(None, (f"drawn: {draw.distribution}{within}", others, draw.meaning)))


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

    def apply(x: Any, loss: Any, training: bool) -> Any:
        losses.append(loss)
        return x

    model.AuxiliaryLoss = SimpleNamespace(apply=apply)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        model.AuxiliaryLoss = helper  # type: ignore[attr-defined]
