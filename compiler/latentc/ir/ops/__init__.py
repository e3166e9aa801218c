"""The op table: every op the IR knows, one row each. The ops of `control` are typed by the functions they name."""

from latentc.ir.ops import attention, conv, elementwise, experts, image, linear, norm, quantize, reduce, shape
from latentc.ir.ops.row import Op, OpError

OPS: dict[str, Op] = {
    **elementwise.OPS,
    **shape.OPS,
    **reduce.OPS,
    **linear.OPS,
    **conv.OPS,
    **norm.OPS,
    **attention.OPS,
    **quantize.OPS,
    **experts.OPS,
    **image.OPS,
}
CONTROL = ("call", "guided", "gradient", "jvp", "loop")

__all__ = ["CONTROL", "OPS", "Op", "OpError"]
