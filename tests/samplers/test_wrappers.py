"""Programs around a sampler: their place in a spec, and samplers that they cannot wrap."""

from __future__ import annotations

import json

import pytest

from latentc.components import load
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

KINDS = load("programs")


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_as_a_key_of_the_sampler_says_where_it_belongs(kind: str) -> None:
    """What the diagnostic says to write is the program's example."""
    example = dict(KINDS[kind].EXAMPLE)
    given = {key: value for key, value in example.items() if key != "kind"}
    with pytest.raises(DiagnosticError) as raised:
        load_spec("digits_dit", overrides=[f"sampler.{kind}={json.dumps(given)}"])
    (found,) = raised.value.diagnostics
    assert found.code == "E0201" and found.span is not None and found.span.column == len("sampler.") + 1
    written = ", ".join([f"kind: {kind}", *(f"{key}: {json.dumps(value)}" for key, value in given.items())])
    assert found.help == f"write `programs: [{{{written}}}]` beside `sampler`"
    with pytest.raises(DiagnosticError) as raised:
        load_spec("digits_dit", overrides=[f"sampler.{kind}=null"])
    assert raised.value.diagnostics[0].help == "leave it out"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spec", "does"), [("llamagen", "`autoregressive` does not"), ("biggan", "`one_pass` does not")]
)
def test_only_samplers_of_whole_arrays_are_wrapped(kind: str, spec: str, does: str) -> None:
    with pytest.raises(DiagnosticError, match="denoises whole arrays step by step") as raised:
        load_spec(spec, overrides=[f"programs=[{json.dumps(KINDS[kind].EXAMPLE)}]"])
    assert any(does in found.message for found in raised.value.diagnostics)


def test_tuning_refuses_programs_that_change_the_steps() -> None:
    from latentc.tune.run import _kind

    assert _kind(load_spec("digits_dit", overrides=["programs=[classify]"]))
    for spec, programs in (
        ("digits_dit", "[classify, annealing]"),
        ("digits_deediff", "[{kind: exit, after: [1, 2]}]"),
    ):
        given = [f"programs={programs}", "sampler.steps=2"]
        with pytest.raises(DiagnosticError, match=r"tuning does not support program `(annealing|exit)`"):
            _kind(load_spec(spec, overrides=given))
