"""Parts of tokens: the authors' signs, entropies and parts, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity_data import Numbers, load

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.spec import load_spec
from latentc.systems.open_magvit2.parts import parts_of, token_of
from latentc.systems.open_magvit2.smoothed_lookup_free import SmoothedLookupFree

TINY = ("data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [2, 2]}}", "backbone.width=16")
TINY += ("backbone.depth=1", "backbone.bits=[2, 2]", "backbone.part_depth=1", "backbone.block.mixer.heads=2")


def run(numbers: Numbers, commitment: float, entropy: float, bits: tuple[int, ...]) -> SimpleNamespace:
    """The bottleneck of a recording: signs in training, the penalty, tokens, and these from their parts again."""
    x = numbers.inputs["x"].astype(np.float64)
    _, channels, rows, columns = x.shape
    bottleneck = SmoothedLookupFree(
        kind="smoothed_lookup_free", channels=channels, commitment=commitment, entropy=entropy
    )
    static: dict[str, Any] = {**bottleneck.static(), "latent": channels, "rows": rows, "columns": columns}
    mb = ModuleBuilder()
    b = mb.function("f")
    h = b.input("h", f32(B, channels, rows, columns))
    z, penalty = bottleneck.regularized(b, h, None, static)
    codes = bottleneck.codes(b, h, static)
    parts = parts_of(b, codes, bits)
    b.output(z, penalty, codes, token_of(b, parts, bits), *parts)
    mb.entries["f"] = b.finish()
    z, penalty, codes, again, *parts = Interpreter(mb.finish()).run("f", x)
    return SimpleNamespace(z=z, penalty=penalty.mean(), codes=codes, again=again, parts=parts, wanted=numbers.outputs)


def test_signs_and_entropies_are_the_authors() -> None:
    found = run(load("open_magvit2.lfq"), 0.25, 0.5, (2, 4))
    wanted = found.wanted
    np.testing.assert_allclose(found.z, wanted["out.quantized"], atol=1e-6)
    assert found.codes.reshape(-1).tolist() == wanted["out.indices"].reshape(-1).tolist()
    loss = 0.25 * wanted["out.commit"] + 0.5 * wanted["out.entropy_aux"]
    assert found.penalty == pytest.approx(float(loss), rel=1e-5)


def test_parts_are_the_authors() -> None:
    found = run(load("open_magvit2.lfq_factorized"), 0.0, 0.0, (3, 5))
    for k, part in enumerate(found.parts):
        assert part.reshape(-1).tolist() == found.wanted[f"out.indices.{k}"].tolist()
    assert np.array_equal(found.again, found.codes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.bits=[2, 3]"], "parts of 5 bits are 32 tokens, not 16"),
        (["backbone.positions={kind: learned}"], "are rotary, but `learned` is added"),
        (["sampler.strengths=[1.0]"], "1 values for tokens of 2 parts"),
        (["sampler.guidance=null"], "`strengths` has no effect without guidance"),
        (["sampler.guidance.interval=[0, 0.5]"], "all tokens are guided"),
        (["sampler.temperature=0", "sampler.temperatures=[1, 2]"], "`temperatures` has no effect at temperature 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("open_magvit2", None, ["data.first_stage=null", *TINY, *overrides])
