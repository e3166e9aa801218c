"""Kernels of the distance between tokens in PyTorch: gradients at the bounds of their parameters, ALiBi's slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_module import loaded, model_text

from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ("data={kind: digits}", "backbone.depth=1", "backbone.width=24")
KERNEL = "backbone.block.mixer={kind: attention, heads: 6, score_kernel: %s}"


def test_parameters_at_a_bound_can_leave_it() -> None:
    """The clamp lets gradients pass, as the authors' clamp of the parameters themselves does."""
    kernel = "{kind: kerple_power, factor: scale_and_power}"
    text = model_text(lower(load_spec("digits_dit", overrides=[*SMALL, KERNEL % kernel])))
    attention = loaded(text)["NETWORKS"]["main"]().blocks[0].attn
    torch.manual_seed(0)
    for name, weight in attention.named_parameters():
        torch.nn.init.constant_(weight, 3.0 if name.endswith("_p") else -1.0) if "_" in name else None
    given = torch.randn(2, 9, 24)
    clamped = attention(given)
    (clamped**2).sum().backward()
    learned = [weight for name, weight in attention.named_parameters() if "_" in name]
    assert len(learned) == 4 and all((weight.grad.abs() > 0).all() for weight in learned)
    with torch.no_grad():
        for name, weight in attention.named_parameters():
            if "_" in name:
                weight.clamp_(0.01, 2.0 if name.endswith("_p") else None)
    assert torch.allclose(attention(given), clamped, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 6, 8])
def test_slopes_are_not_learned(heads: int) -> None:
    made = INITS["alibi_slopes"](None, (heads, 1, 1))  # type: ignore[arg-type]
    sizes = [*SMALL, (KERNEL % "{kind: kerple_power, bias: slopes}").replace("heads: 6", f"heads: {heads}")]
    text = model_text(lower(load_spec("digits_dit", overrides=sizes)))
    attention = loaded(text)["NETWORKS"]["main"]().blocks[0].attn
    np.testing.assert_allclose(attention.bias_a.numpy(), made, rtol=1e-6)
    assert "bias_a" not in attention.state_dict()
