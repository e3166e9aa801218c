"""Codebooks of which some rows are tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentc.components.blocks.bottlenecks.codebook import Codebook
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.spec import load_spec
from latentc.systems.taming.gumbel_codebook import GumbelCodebook

USED: dict[str, Any] = {"size": 6, "channels": 3, "used": (1, 5, 4), "unknown": 2}


@pytest.mark.parametrize(
    "bottleneck", [Codebook(kind="codebook", **USED), GumbelCodebook(kind="gumbel_codebook", **USED)]
)
def test_tokens_are_the_places_of_used_rows(bottleneck: Codebook | GumbelCodebook) -> None:
    assert bottleneck.vocabulary == 3 and not bottleneck.numbered
    static = {**bottleneck.static(), "latent": 3, "rows": 4, "columns": 5}
    mb = ModuleBuilder()
    b = mb.function("f")
    h, codes = b.input("h", f32(B, 3, 4, 5)), b.input("codes", i64(B, 20))
    b.output(bottleneck.codes(b, h, static), bottleneck.latents(b, codes, static), bottleneck.mode(b, h, static))
    mb.entries["f"] = b.finish()
    rng = np.random.default_rng(0)
    table, tokens, h = rng.standard_normal((6, 3)), rng.integers(0, 3, (2, 20)), rng.standard_normal((2, 3, 4, 5))
    weights = {"codebook.weight": table, "to_logits.weight": table[..., None, None], "to_logits.bias": np.zeros(6)}
    found, latents, mode = Interpreter(mb.finish(), weights).run("f", h, tokens)
    rows = h.reshape(2, 3, 20).transpose(0, 2, 1)
    distances = ((rows[:, :, None] - table) ** 2).sum(-1)
    nearest = distances.argmin(-1) if bottleneck.kind == "codebook" else (rows @ table.T).argmax(-1)
    assert {0, 1, 4} <= set(nearest.reshape(-1))
    assert np.array_equal(found, np.array([2, 0, 2, 2, 2, 1])[nearest])
    assert np.allclose(latents.reshape(2, 3, 20).transpose(0, 2, 1), table[np.array([1, 5, 4])[tokens]])
    assert np.allclose(mode.reshape(2, 3, 20).transpose(0, 2, 1), table[nearest])  # reconstruction knows all rows


@pytest.mark.parametrize(("variant", "count", "total"), [("imagenet", 974, 7_777_706), ("coco", 2887, 11_765_535)])
def test_the_first_stage_of_cdcd_has_the_tokens_that_it_models(variant: str, count: int, total: int) -> None:
    """The rows are those of help_folder/statistics of github.com/microsoft/VQ-Diffusion, in ascending order."""
    spec = load_spec("cdcd", variant)
    assert spec.first_stage is not None
    bottleneck = getattr(spec.first_stage.networks["main"], "bottleneck")  # noqa: B009
    assert bottleneck.vocabulary == count and sum(bottleneck.used) == total
    assert list(bottleneck.used) == sorted(bottleneck.used)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("used: [0, 8]", r"row 8 is out of range: the codebook has rows 0 to 7"),
        ("used: [2, 3, 2]", "a row is listed twice"),
        ("used: [2, 3], unknown: 2", r"token 2 is out of range: there are tokens 0 to 1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(more: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("vq_f4", overrides=[f"backbone.bottleneck={{kind: codebook, size: 8, channels: 3, {more}}}"])
