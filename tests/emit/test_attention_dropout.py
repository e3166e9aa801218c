"""Dropout of attention weights: in training alone, of weights after the softmax, and unknown to engines."""

from __future__ import annotations

import re

import pytest
import torch
from tiny_systems import SYSTEMS
from torch_module import loaded, model_text

from latentc.ir.text import text_from_module
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec

SIZES = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")
DROPS = "backbone.block.mixer.weight_dropout=0.25"
KERNEL = "backbone.block.mixer={kind: kerple_attention, heads: 2, weight_dropout: 0.25, kernel: {kind: kerple_power, "
KERNEL += "factor: scale}}"


def test_engines_know_nothing_of_it() -> None:
    texts = []
    for drops in ("backbone.depth=1", DROPS):
        spec = load_spec("digits_maskgit", overrides=[*SYSTEMS["maskgit"].sizes, drops])
        texts.append(re.sub(r"_\d+", "", text_from_module(optimised(lower(spec), spec).module)))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("written_out", [False, True])
def test_weights_are_dropped_after_the_softmax(written_out: bool) -> None:
    """Over many draws of one input the mean is what inference returns, and the spread is what dropout has."""
    lowered = lower(load_spec("digits_dit", overrides=[*SIZES, DROPS, *[KERNEL] * written_out]))
    text = model_text(lowered)
    assert ("dropout_p=0.25 if self.training else 0.0" in text) != written_out
    attention = loaded(text)["NETWORKS"]["main"]().blocks[0].attn
    torch.manual_seed(0)
    for weight in attention.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    torch.nn.init.eye_(attention.proj.weight)
    torch.nn.init.zeros_(attention.proj.bias)
    one = torch.randn(1, 4, 16)
    with torch.no_grad():
        q, k, v = attention.qkv(one).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        wanted = attention.eval()(one)[0]
        found = attention.train()(one.expand(20000, -1, -1))
    error = (found.mean(0) - wanted).abs().max()
    assert error < 0.05 * wanted.abs().max()
    if not written_out:
        weights = torch.softmax(q @ k.transpose(2, 3) / 8**0.5, dim=-1)
        variance = (weights**2 @ v**2)[0] * 0.25 / 0.75  # of a sum of independent terms, each kept with 3 in 4
        assert torch.allclose(found.var(0).unflatten(1, (2, 8)).transpose(0, 1), variance, rtol=0.1, atol=1e-4)
