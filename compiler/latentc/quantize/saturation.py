"""Tests whether int8 products of an engine saturate on this CPU.

x86 CPUs without VNNI multiply u8 by i8 and add pairs of products in 16 bits. OpenVINO's int8 products of a small
digit DiT are then off by 55 % of the largest output; with weights in 7 bits nothing saturates.
"""

from __future__ import annotations

import functools

import numpy as np

from latentc.engines import ENGINES
from latentc.ir.builder import B, ModuleBuilder, f32
from latentc.measure.execute import executable
from latentc.passes.quantize.plan import LayerQuant
from latentc.passes.quantize.rewrite import quantize
from latentc.weights import Array
from latentc_runtime import BundleError
from latentc_runtime.backends import open_backend

WIDTH = 64


@functools.cache
def saturates(engine: str) -> bool:
    """Runs a product of the largest numbers on the CPU; False for an engine that does not run here or on CPUs."""
    row = ENGINES[engine]
    if row.plans is not None:
        return False
    mb = ModuleBuilder()
    b = mb.function("main")
    b.output(b.op("linear", b.input("x", f32(B, 4, WIDTH)), b.param("layer.weight", f32(WIDTH, WIDTH), "ones")))
    mb.entries["main"] = b.finish()
    module = quantize(mb.finish(), {"layer.weight": LayerQuant("int8")}, engine)
    values = {"layer.weight": np.ones((WIDTH, WIDTH), np.float32), "layer.input_scale": np.asarray(1 / 127, np.float32)}
    weights = {path: Array(value) for path, value in values.items()}
    try:
        run = executable(module, "main", weights, backend=open_backend("cpu", 1, row.graph_engine))
        (out,) = run({"x": np.ones((1, 4, WIDTH), np.float32)})
    except BundleError:
        return False
    return bool(np.abs(out - WIDTH).max() > 0.01 * WIDTH)
