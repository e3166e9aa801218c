"""The table of ONNX lowerings, one per op, in files as those of `latentc.ir.ops`."""

from latentc.export.lowerings import elementwise, network, quantize, reduce, scan, shape
from latentc.export.lowerings.table import TABLE, Context, Elements, Lowering

__all__ = ["TABLE", "Context", "Elements", "Lowering", "elementwise", "network", "quantize", "reduce", "scan", "shape"]
