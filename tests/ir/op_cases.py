"""For each op, a generator of operands and attributes, and what PyTorch makes of them."""

import op_cases_arrays
import op_cases_layers
import op_cases_quantised
from op_draws import CASES, TORCH, Draw

# Importing them fills CASES.
FILLED_BY = (op_cases_arrays, op_cases_layers, op_cases_quantised)

__all__ = ["CASES", "TORCH", "Draw"]
