"""D-AR's tokenizer beyond what was recorded: what codes and conditions depend on, groups of times, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.d_ar.sequential_diffusion import first_code

TINY = [
    *("backbone.width=16", "backbone.depth=1", "backbone.condition_depth=1", "backbone.pixel_depth=1"),
    *("backbone.block.mixer.heads=2", "backbone.queries=6", "backbone.group=2", "sampler.steps=3"),
]


def test_groups_are_those_nearest_to_a_time() -> None:
    """The authors round the time to eighths of 256 codes; the last eighth begins at code 224."""
    mb = ModuleBuilder()
    b = mb.function("first")
    b.output(first_code(b, b.input("u", f32(B)), 256, 32))
    mb.entries["first"] = b.finish()
    u = np.array([0.0, 0.06, 0.07, 0.5, 0.93, 0.99], np.float32)
    (first,) = Interpreter(mb.finish(), {}).run("first", u)
    assert list(first) == [0, 0, 32, 128, 224, 224]


def test_an_image_drawn_in_part_needs_the_first_codes_only() -> None:
    """Conditions of a code depend on those before it, so the steps before a changed code draw the same."""
    lowered = lower(load_spec("digits_d_ar_tokenizer", None, TINY))
    weights, rng = weights_of(lowered, 0.5, 3), np.random.default_rng(4)
    oracle, methods = Interpreter(lowered.module, weights), lowered.networks["main"].methods
    x = rng.standard_normal((2, 1, 8, 8))
    (codes,) = oracle.run(methods["encode"].function, x, prefix="main")
    other = np.asarray(codes).copy()
    other[:, 4] = (other[:, 4] + 1) % 64
    first, second = (
        np.asarray(oracle.run(methods["conditions"].function, c, prefix="main")[0]) for c in (np.asarray(codes), other)
    )
    assert np.array_equal(first[:, :4], second[:, :4]) and not np.allclose(first[:, 4:], second[:, 4:])
    program = next(p for p in lowered.programs if p.name == "decode")
    noise = rng.standard_normal((2, 1, 8, 8))
    images = [np.asarray(oracle.run(program.entry, c, noise)[0]) for c in (np.asarray(codes), other)]
    assert not np.allclose(*images)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.group=4"], "groups of 4 codes do not divide 6"),
        (["backbone.queries=10"], "8 rows for 10 codes"),
        (["backbone.patch=3"], "patches of 3 do not tile a side of 8"),
        (["backbone.pixel_patch=3"], "patches of 3 do not tile a side of 8"),
        (["backbone.block.mixer.heads=8"], "must be divisible by 4"),
        (["sampler={kind: autoencode}"], "encodes data as codes and decodes them"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_d_ar_tokenizer", None, [*TINY, *overrides])
