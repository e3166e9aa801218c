"""Weights files and the networks of a spec: which tensors belong where, under whose names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc.components.contract import Lowered, Network
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.ir.core import Param, parameters
from latentc.ir.inits import DETERMINISTIC, INITS
from latentc.ir.types import NUMPY, Sym
from latentc.spec.schema import Spec
from latentc.weights import (
    Array,
    Expr,
    check_inverse,
    export_weights,
    ignores,
    import_weights,
    materialise,
    open_weights,
    write_safetensors,
)
from latentc.weights.files import Files, named_files
from latentc.weights.names import Types

OWN_NAMES: tuple[Mapping[str, Any], ...] = ({"from": "*", "to": "*"},)


def network_params(lowered: Lowered, network: Network) -> dict[str, Param]:
    """{state-dict path: Param} of a network, all its methods together."""
    found: dict[str, Param] = {}
    for function in network.functions:
        found.update(parameters(lowered.module, function))
    return found


def network_types(lowered: Lowered, network: str) -> Types:
    """{state-dict path: (shape, dtype)} of the tensors that a weights file of a network holds."""
    params = network_params(lowered, lowered.networks[network])
    return {name: (_shape(p), p.type.dtype) for name, p in params.items() if not computed(p)}


def computed(param: Param) -> bool:
    """Whether a param is a buffer that follows from the spec, so that no weights file need hold it."""
    return param.kind == "buffer" and param.init.kind in DETERMINISTIC


def network_weights(
    spec: Spec,
    lowered: Lowered,
    files: Files,
    names: str | None = None,
    key: str | None = None,
    networks: Sequence[str] | None = None,
) -> dict[str, dict[str, Expr]]:
    """{network: {state-dict path: tensor}} of weights files, computed buffers included; nothing is read yet.

    `names` is a name map of the spec (`official`), or None for the names of the emitted project. Where a spec has
    several networks their names in a common file begin with the network's (`refiner.blocks.0…`). `key` picks a state
    dict of the checkpoint (`ema`). `networks` are those that are wanted, all by default: a file may hold more, and if
    one alone is wanted, nothing else under its plain names. Raises DiagnosticError: E0401 to E0411, E0415, E0703.
    """
    wanted_networks = list(lowered.networks if networks is None else networks)
    tensors = _tensors(files, list(lowered.networks), wanted_networks, key)
    found = {}
    for name in wanted_networks:
        network = lowered.networks[name]
        params, own = network_params(lowered, network), tensors[name]
        if names is None:
            # An emitted project keeps computed buffers out of its files; a file that has them says nothing new.
            # PyTorch's batch norms count their batches; nothing reads that.
            own = {
                n: e
                for n, e in own.items()
                if not (n in params and computed(params[n])) and not n.endswith(".num_batches_tracked")
            }
        wanted = network_types(lowered, name)
        rules, sizes = name_map(spec, name, names), symbols(lowered, network)
        check_inverse(rules, wanted, sizes)
        made = import_weights(own, rules, wanted, sizes)
        found[name] = {n: made[n] if n in made else buffer(p) for n, p in params.items() if n in made or computed(p)}
    return found


def _tensors(
    files: Files, networks: Sequence[str], wanted: Sequence[str], key: str | None
) -> dict[str, dict[str, Expr]]:
    """{wanted network: its tensors by their names in its file}."""
    opened = named_files(files, networks, wanted)
    if "" not in opened:
        return {name: open_weights(opened[name], key) for name in wanted}
    whole = open_weights(opened[""], key)
    own = {
        name: {n.removeprefix(f"{name}."): e for n, e in whole.items() if n.startswith(f"{name}.")} for name in wanted
    }
    return own if any(own.values()) or len(wanted) > 1 else {wanted[0]: whole}


def write_weights(
    spec: Spec,
    lowered: Lowered,
    weights: Mapping[str, Mapping[str, Expr]],
    path: Path | str,
    names: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Write networks' weights as one safetensors file under the names of `names`; returns the number of tensors.

    Computed buffers are left out, unless the name map says that official files hold them. Raises DiagnosticError:
    E0405, E0410 to E0412, E0703.
    """
    several = len(lowered.networks) > 1
    tensors: dict[str, Expr] = {}
    for name, network in lowered.networks.items():
        params = network_params(lowered, network)
        own = {n: e for n, e in weights[name].items() if not computed(params[n])}
        rules, sizes = name_map(spec, name, names), symbols(lowered, network)
        check_inverse(rules, {n: (e.shape, e.dtype) for n, e in own.items()}, sizes)
        # What an official file holds and we compute, under the same name (`pos_embed`): its readers may insist on it.
        constants = {n: e for n, e in weights[name].items() if computed(params[n]) and ignores(rules, n, sizes)}
        made = export_weights(own, rules, sizes=sizes, constants=constants)
        tensors.update({f"{name}.{n}" if several else n: e for n, e in made.items()})
    write_safetensors(path, tensors, metadata)
    return len(tensors)


def arrays(weights: Mapping[str, Expr]) -> dict[str, np.ndarray]:
    """The tensors in memory."""
    return {name: materialise(expr) for name, expr in weights.items()}


def buffer(param: Param) -> Array:
    """The value of a computed buffer, in its own dtype."""
    value = INITS[param.init.kind](np.random.default_rng(0), _shape(param), **param.init.args)
    return Array(value.astype(NUMPY[param.type.dtype]))


def _shape(param: Param) -> tuple[int, ...]:
    return tuple(d for d in param.type.shape if not isinstance(d, Sym))  # params have no run-time sizes


def name_map(spec: Spec, network: str, names: str | None) -> Sequence[Mapping[str, Any]]:
    """The rules of a name map for one network. DiagnosticError E0703."""
    if names is None:
        return OWN_NAMES
    if names not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        close = nearest(names, spec.weights)
        mend = f"did you mean `{close}`?" if close else "leave `--names` out where the file has latentc's own names"
        message = f"the spec has no name map `{names}`"
        note = f"name maps of this spec (section `weights`): {known}"
        raise DiagnosticError(Diagnostic("E0703", message, spec.span("weights"), notes=(note,), help=mend))
    rules = spec.weights[names].get(network)
    if rules is None:
        message = f"the name map `{names}` says nothing about the network `{network}`"
        raise DiagnosticError(
            Diagnostic("E0703", message, spec.span("weights", names), help=f"add `weights.{names}.{network}: [...]`")
        )
    return rules


def symbols(lowered: Lowered, network: Network) -> dict[str, int]:
    """The sizes that a name map may refer to: the network's constructor arguments (`heads`, `width`)."""
    found: dict[str, int] = {}
    for function in network.functions:
        origin = lowered.module.functions[function].origin
        for name, value in (origin.args if origin else {}).items():
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = int(value)
    return found
