"""What running a function costs, from the op rows."""

from __future__ import annotations

import os
from pathlib import Path

from latentc.ir.core import Module, Node, callees
from latentc.ir.ops import CONTROL, OPS


def flops(module: Module, function: str) -> int:
    """Floating-point operations of one sample, a multiply-add as two; batched guidance counts both branches.

    The cost is that of the distinct functions, whatever the depth they unfold to.
    """
    known: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in known:
            known[name] = sum(node_cost(node) for node in module.functions[name].nodes)
        return known[name]

    def node_cost(node: Node) -> int:
        if node.op not in CONTROL:
            return OPS[node.op].flops([v.type for v in node.inputs], [v.type for v in node.outputs], node.attrs)
        (callee,) = callees(node)
        times = {"loop": node.attrs.get("trip", 1), "guided": 2}.get(node.op, 1)
        return times * of(callee)

    return of(module.entries.get(function, function))


def available_memory() -> float:
    """Bytes that a program may still take on this machine; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")


__all__ = ["available_memory", "flops"]
