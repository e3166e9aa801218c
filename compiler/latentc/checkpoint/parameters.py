"""The parameters of a spec's networks by state-dict path, and buffers that follow from the spec."""

from __future__ import annotations

import numpy as np

from latentc.components.contract import Lowered, Network
from latentc.ir.core import Param, parameters
from latentc.ir.inits import DETERMINISTIC, INITS
from latentc.ir.types import NUMPY, Sym
from latentc.weights import Array
from latentc.weights.names import Types


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
    """True if a param is a buffer that can be computed from the spec, so that weights files need not contain it."""
    return param.kind == "buffer" and param.init.kind in DETERMINISTIC


def buffer(param: Param) -> Array:
    """The value of a computed buffer, in its own dtype."""
    value = INITS[param.init.kind](np.random.default_rng(0), _shape(param), **param.init.args)
    return Array(value.astype(NUMPY[param.type.dtype]))


def _shape(param: Param) -> tuple[int, ...]:
    return tuple(d for d in param.type.shape if not isinstance(d, Sym))  # params have no run-time sizes
