"""Derivatives by central differences, to compare with."""

import numpy as np

from latentc.ir.core import own_parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter


def weights_of(module, function, seed=0):
    """Random weights of everything a function reaches."""
    rng = np.random.default_rng(seed)
    shapes = {
        path: (p.init, tuple(map(int, p.type.shape)))
        for path, p in own_parameters(module, module.entries.get(function, function)).items()
    }
    return {
        path: INITS[init.kind](rng, shape, **init.args) + 0.1 * rng.standard_normal(shape)
        for path, (init, shape) in shapes.items()
    }


def numeric(module, function, inputs, wrt, of=0, params=None, step=1e-5):
    """d sum(output `of`) / d input `wrt`, element by element, in float64."""
    run = Interpreter(module, params).run
    result = np.zeros_like(inputs[wrt], dtype=np.float64)
    for index in np.ndindex(result.shape):
        sides = []
        for sign in (1, -1):
            moved = np.array(inputs[wrt], dtype=np.float64)
            moved[index] += sign * step
            sides.append(run(function, *inputs[:wrt], moved, *inputs[wrt + 1 :])[of].sum())
        result[index] = (sides[0] - sides[1]) / (2 * step)
    return result
