"""Plans of training on many accelerators: memory, communication and time from the compiler's own counts."""

from latentc.scale.accelerators import ACCELERATORS, Accelerator
from latentc.scale.plan import Layout, Plan, plan
from latentc.scale.request import Request, parse_request

__all__ = ["ACCELERATORS", "Accelerator", "Layout", "Plan", "Request", "parse_request", "plan"]
