"""U-Nets of specs: what fits together, and what does not."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from latentc.components import OneOf
from latentc.diagnostics import DiagnosticError
from latentc.emit import model_source
from latentc.ir.core import parameters
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = [
    "data={kind: digits}",
    "conditioning.time.frequencies=16",
    "backbone.width=32",
    "backbone.multipliers=[1, 2]",
    "backbone.blocks=1",
    "backbone.attention=[1]",
    "backbone.block.head_channels=16",
]


def test_a_skip_whose_channels_do_not_fit() -> None:
    """Level 0 goes up with its 32 channels and a skip of 16 from the stem: 48 channels in 32 groups."""
    with pytest.raises(DiagnosticError) as refused:
        load_spec("adm", None, [*SMALL, "backbone.stem=0.5"])
    assert "32 groups do not divide the 48 channels of level 0 and a skip" in str(refused.value)


def test_the_middle_block_attends_even_if_no_level_does() -> None:
    with pytest.raises(
        DiagnosticError, match=r"E0305.*0 heads do not divide the 64 channels of level 1, where the mid"
    ):
        load_spec("adm", None, [*SMALL, "backbone.attention=[]", "backbone.block.head_channels=128"])


def test_the_stem_and_the_features_of_the_time_have_sizes_of_their_own() -> None:
    low = lower(load_spec("adm", None, [*SMALL, "backbone.stem=2", "backbone.frequencies=8"]))
    params = parameters(low.module, low.networks["main"].main.function)
    assert params["in_conv.weight"].type.shape[0] == 64
    assert tuple(params["embedder.fc1.weight"].type.shape) == (128, 8)
    assert "stem" not in model_source(low)


@pytest.mark.parametrize("kind", ["mp_unet", "unet", "unet_encoder"])
def test_two_features_of_the_time_are_too_few(kind: str) -> None:
    """Frequencies with both endpoints need four; a spec may choose them."""
    with pytest.raises(ValidationError, match="greater than 2"):
        OneOf("networks").choices()[kind].example(frequencies=2)
