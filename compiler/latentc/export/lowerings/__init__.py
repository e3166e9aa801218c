"""The table of ONNX lowerings, one function an op, by the same files as the op rows."""

from latentc.export.lowerings import elementwise, network, quantize, reduce, shape
from latentc.export.lowerings.table import TABLE, Context, Elements, Lowering

__all__ = ["TABLE", "Context", "Elements", "Lowering", "elementwise", "network", "quantize", "reduce", "shape"]
