"""A codebook of which every row gets gradients: the authors' losses, codes and gradients."""

from __future__ import annotations

import numpy as np
from gradients import grad
from parity_data import load

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.systems.ibq.index_propagation import IndexPropagation

STATIC = {"codes": 24, "latent": 6, "rows": 3, "columns": 3}
NUMBERS = load("ibq.quantizer")


class OfInput(IndexPropagation):
    """The codebook is an input, by which the loss can be derived."""

    def table(self, b: Builder, static: dict[str, int]) -> Var:
        return b.given("table")


def built(entropy: float) -> ModuleBuilder:
    """`f`: z, w, table -> sum(w * quantized) + the batch's penalty, quantized, codes and the penalty per sample."""
    bottleneck = OfInput(kind="index_propagation", size=24, channels=6, entropy=entropy)
    mb = ModuleBuilder()
    b = mb.function("f")
    z, w = b.input("z", f32(B, 6, 3, 3)), b.input("w", f32(B, 6, 3, 3))
    b.input("table", f32(24, 6))
    quantized, penalty = bottleneck.regularized(b, z, None, STATIC)
    total = b.sum(quantized * w, axes=(0, 1, 2, 3), keepdims=False)
    loss = b.add(total, b.mean(penalty, axes=(0,), keepdims=False), out="loss")
    b.output(loss, quantized, bottleneck.codes(b, z, STATIC), penalty)
    mb.entries["f"] = b.finish()
    return mb


GIVEN = (NUMBERS.inputs["z"], NUMBERS.inputs["w"], NUMBERS.weights["q.embedding.weight"])
GIVEN = tuple(x.astype(np.float64) for x in GIVEN)
ENTROPIES = [float(NUMBERS.outputs[f"out.entropy.{i}"]) for i in range(3)]


def test_codes_and_losses_are_the_authors() -> None:
    _, quantized, codes, penalty = Interpreter(built(0.0).finish()).run("f", *GIVEN)
    assert codes.reshape(-1).tolist() == NUMBERS.outputs["out.indices"].tolist()
    np.testing.assert_allclose(quantized, NUMBERS.outputs["out.quantized"], atol=1e-5)
    np.testing.assert_allclose(penalty.mean(), NUMBERS.outputs["out.quant_loss"], rtol=1e-5)
    *_, both = Interpreter(built(0.7).finish()).run("f", *GIVEN)
    np.testing.assert_allclose((both - penalty).mean(), 0.7 * ENTROPIES[2], rtol=1e-5)


def test_every_row_gets_the_authors_gradient() -> None:
    wanted = [NUMBERS.outputs["out.grad_z"], NUMBERS.outputs["out.grad_codebook"]]
    module, name = grad(built(1.0).finish(), "f", (0, 2))
    for found, own in zip(Interpreter(module).run(name, *GIVEN), wanted, strict=True):
        np.testing.assert_allclose(found, own, atol=1e-5 * np.abs(own).max())
    assert (np.abs(wanted[1]).max(1) > 0).all()  # of rows that no latent chose, too
