"""A codebook whose rows are drawn from logits, by the equations of the Gumbel softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.taming.gumbel_codebook import GumbelCodebook

SIZES = {"kind": "gumbel_codebook", "size": 7, "channels": 3, "kl": 0.25, "temperature": 0.9}
SIZES |= {"final_temperature": 0.1, "temperature_steps": 200}


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize(("step", "temperature"), [(0, 0.9), (100, 0.5), (300, 0.1)])
def test_rows_are_drawn_at_a_temperature_that_falls(straight: bool, step: int, temperature: float) -> None:
    bottleneck = GumbelCodebook(**SIZES, straight_through=straight)
    static = {**bottleneck.static(), "latent": 3, "rows": 2, "columns": 2}
    mb = ModuleBuilder()
    b = mb.function("training")
    h, gumbel, out = b.input("h", f32(B, 3, 2, 2)), b.input("gumbel", f32(B, 4, 7)), b.input("out", f32(B, 3, 2, 2))
    z, penalty = bottleneck.at_step(b, h, gumbel, static, b.input("step", i64()))
    b.output(b.sum(z * out, axes=(0, 1, 2, 3), keepdims=False) + b.mean(penalty, axes=(0,), keepdims=False), z)
    training = b.finish()
    b = mb.function("f")
    given = [b.input(value.name, value.type) for value in mb.functions[training].inputs]
    loss, to_h = b.gradient(training, "", given, of=0, wrt=(0,), out="loss to_h")
    codes = bottleneck.codes(b, given[0], static)
    b.output(loss, to_h, b.call(training, "", *given, out="again z")[1], codes, bottleneck.latents(b, codes, static))
    mb.entries["f"] = b.finish()

    torch.manual_seed(0)
    h, out = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 2, 2).double()
    weight, bias, table = torch.randn(7, 3, 1, 1).double(), torch.randn(7).double(), torch.randn(7, 3).double()
    noise = -torch.empty(2, 7, 2, 2).exponential_().log().double()
    logits = F.conv2d(h, weight, bias)
    soft = torch.softmax((logits + noise) / temperature, dim=1)
    drawn = F.one_hot(soft.argmax(1), 7).permute(0, 3, 1, 2) - soft.detach() + soft if straight else soft
    latents = torch.einsum("bkhw,kd->bdhw", drawn, table)
    p = torch.softmax(logits, dim=1)
    divergence = 0.25 * (p * torch.log(p * 7 + 1e-10)).sum(1).mean()
    wanted = (latents * out).sum() + divergence
    wanted.backward()  # type: ignore[no-untyped-call]

    weights = {"to_logits.weight": weight, "to_logits.bias": bias, "codebook.weight": table}
    oracle = Interpreter(mb.finish(), {name: array.numpy() for name, array in weights.items()})
    rows = noise.permute(0, 2, 3, 1).reshape(2, 4, 7).numpy()
    found = oracle.run("f", h.detach().numpy(), rows, out.numpy(), np.int64(step))
    assert found[0] == pytest.approx(wanted.item())
    assert h.grad is not None
    np.testing.assert_allclose(found[1], h.grad.numpy(), atol=1e-9)
    np.testing.assert_allclose(found[2], latents.detach().numpy(), atol=1e-9)
    likeliest = logits.argmax(1)
    assert np.array_equal(found[3], likeliest.reshape(2, 4).numpy())
    np.testing.assert_allclose(found[4], table[likeliest].permute(0, 3, 1, 2).numpy())


def test_only_an_autoencoder_is_told_the_step() -> None:
    bottleneck = "{kind: gumbel_codebook, size: 16, channels: 4, final_temperature: 0.1}"
    overrides = [f"networks.main.bottleneck={bottleneck}", "networks.prior.channels=4"]
    with pytest.raises(DiagnosticError, match="only an `autoencoder` does"):
        lower(load_spec("larp_tokenizer", overrides=overrides))
