"""Options that would be ignored without another are refused, and named with it."""

from __future__ import annotations

from typing import Any

import pytest

from latentc.components import load
from latentc.components.parts import Part
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (
            "digits_dit",
            ("sampler.guidance.power=2",),
            "`power` applies only if `schedule` is linear or cosine, not const",
        ),
        ("digits_dit", ("conditioning.class.untrained_null=true",), "`untrained_null` applies only if `dropout` is 0"),
        (
            "digits_dit",
            ("backbone.block.mixer.qk_norm_joint=true",),
            "`qk_norm_joint` applies only if `qk_norm` is set",
        ),
        ("dit", ("sampler={kind: ddim, noise_of_clipped: false}",), "`noise_of_clipped` applies only if `clip` is set"),
        (
            "dit",
            ("sampler={kind: ddpm, clip: 1, clip_per_channel: true}",),
            "`clip_per_channel` applies only if `clip_quantile` is set",
        ),
        ("sit", ("objective.process.beta_max=10",), "`beta_max` applies only if `path` is vp, not linear"),
        ("sit", ("objective.weighting=likelihood",), "`weighting` applies only if `predicts` is score or noise"),
        ("sit", ("sampler={kind: heun, steps: 2, guided: steps}",), "`guided` applies only if `guidance` is set"),
    ],
)
def test_an_option_without_the_one_it_needs(spec: str, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec(spec, overrides=list(options))
    (found,) = caught.value.diagnostics
    assert found.message.startswith(said)
    assert found.span is not None and found.span.file.startswith("--set")


def test_options_and_their_values_exist() -> None:
    for folder in ("blocks/mixers", "conditions", "guidance", "objectives", "processes", "samplers"):
        for cls in load(folder).values():
            for option, (other, values) in getattr(cls, "APPLIES", {}).items() if issubclass(cls, Part) else ():
                assert {option, other} <= {*cls.model_fields}, cls
                # A subclass may fix the other option, and then some never apply.
                owner: Any = next(base for base in cls.__mro__ if "APPLIES" in vars(base))
                assert values is None or all(repr(v) in repr(owner.model_fields[other]) for v in values), cls
