"""Derivatives by central differences, to compare with."""

import numpy as np

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import own_parameters
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.passes.cleanup import cleaned


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


def _derived(kind, module, function, wrt, of):
    """The module with a function `{function}.{kind}` that has the derivative alone, expanded; and its name."""
    mb = ModuleBuilder(module)
    fn = module.functions[module.entries.get(function, function)]
    b = mb.function(f"{fn.name}.{kind}")
    operands = [b.input(v.name, v.type) for v in fn.inputs]
    if kind == "gradient":
        b.output(b.gradient(fn.name, "", operands, of=of, wrt=wrt)[1:])
    else:
        tangents = [b.input(f"t_{fn.inputs[i].name}", fn.inputs[i].type) for i in wrt]
        b.output(b.jvp(fn.name, "", operands, tangents, of=of, wrt=wrt)[1])
    name = b.finish()
    return expand_derivatives(mb.finish(), cleaned), name


def grad(module, function, wrt, of=0):
    """(module with the gradient of the sum of output `of` with respect to inputs `wrt`, its name)."""
    return _derived("gradient", module, function, wrt, of)


def pushed(module, function, wrt, of=0):
    """(module with the derivative of output `of` along tangents of inputs `wrt`, its name)."""
    return _derived("jvp", module, function, wrt, of)


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


def directional(module, function, inputs, tangents, of=0, params=None, step=1e-5):
    """Derivative of output `of` along `tangents` {number of an input: its tangent}."""
    run = Interpreter(module, params).run
    ends = [
        run(function, *(x + sign * step * tangents[i] if i in tangents else x for i, x in enumerate(inputs)))[of]
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step)
