"""Every kind of condition, from the data to the request: in a loss, in a network, left out, and in a sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components import load
from latentc.components.conditions.tokens import TokenSequence
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime.sources import ConditionSource

SPEC = """\
latentc: 1
name: told
data:
  kind: npz
  path: data.npz
  fields:
    x: {{shape: [1, 8, 8]}}
    y: {{classes: 5}}
    style: {{shape: [6]}}
    style_null: {{shape: [6]}}
    sketch: {{shape: [2, 8, 8]}}
    labels: {{shape: [4, 4], classes: 3}}
    text: {{shape: [7], classes: 11}}
    text_mask: {{shape: [7], dtype: bool}}
    features: {{shape: [7, 4]}}
    features_mask: {{shape: [7], dtype: bool}}
backbone:
  kind: patch_transformer
  width: 16
  depth: 1
  patch: 4
  positions: {{kind: sincos_2d}}
  block:
    mixer: {{kind: attention, heads: 2}}
    feed_forward: {{kind: gelu_mlp, ratio: 2}}
    norm: {{kind: layer_norm}}
    condition: {{kind: adaln_zero}}
conditioning: {{{conditioning}, time: {{kind: timestep, frequencies: 16}}}}
objective: {{kind: diffusion}}
sampler: {{kind: ddim, steps: 2, guidance: {{scale: 2.0}}}}
"""
RNG = np.random.default_rng(0)
VALUES = {
    "y": RNG.integers(0, 5, 3),
    "style": RNG.standard_normal((3, 6)),
    "sketch": RNG.standard_normal((3, 2, 8, 8)),
    "labels": RNG.integers(0, 3, (3, 4, 4)),
}
CASES = {
    "index": ("class: {kind: label}", "y"),
    "zeros": ("class: {kind: label, null_embedding: zeros}", "y"),
    "mean": ("class: {kind: label, null_embedding: mean}", "y"),
    "one-hot": ("class: {kind: label, encoding: one_hot, null_embedding: zeros}", "y"),
    "one-hot mean": ("class: {kind: label, encoding: one_hot, null_embedding: mean}", "y"),
    "vector": ("style: {kind: vector, dropout: 0.2}", "style"),
    "learned vector": ("style: {kind: vector, dropout: 0.2, null_embedding: vector}", "style"),
    "image": ("sketch: {kind: map, dropout: 0.2}", "sketch"),
    "labels": ("labels: {kind: map, dropout: 0.2}", "labels"),
}


def lowered(tmp_path: Path, conditioning: str) -> Lowered:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(conditioning=conditioning), encoding="utf-8")
    return lower(load_spec(file))


def load_spec_with_text() -> Any:
    from latentc.spec import spec_from_text

    return spec_from_text(SPEC.format(conditioning="class: {kind: label}"))


def value_of(low: Lowered, field: str) -> np.ndarray:
    port = low.networks["main"].methods["forward"].input("condition") if field == "y" else None
    value = VALUES[field]
    return np.eye(5)[value] if port is not None and port.type.dtype == "f32" else value


@pytest.mark.parametrize("case", CASES)
def test_a_condition_changes_the_output_and_its_null_is_the_dropped_one(case: str, tmp_path: Path) -> None:
    conditioning, field = CASES[case]
    low = lowered(tmp_path, conditioning)
    oracle = Interpreter(low.module, weights_of(low, 0.3))
    forward = low.networks["main"].methods["forward"]
    batch = dict.fromkeys(low.updates[0].batch)
    assert list(batch) == ["x", field]
    x, t, noise = RNG.standard_normal((3, 1, 8, 8)), np.array([5, 500, 900]), RNG.standard_normal((3, 1, 8, 8))
    value = value_of(low, field)

    def loss(value: np.ndarray, drop: float) -> np.ndarray:
        held = low.module.functions["loss.terms"].inputs[1].type  # data sets hold labels as indices
        stored = value.argmax(-1) if held.rank < value.ndim else value
        (terms,) = oracle.run("loss.terms", x, stored, t, noise, np.full(3, drop))
        return terms

    other = np.roll(value, 1, axis=0)
    assert np.all(
        np.abs(loss(value, 0.9) - loss(other, 0.9))[np.any(value != other, axis=tuple(range(1, value.ndim)))] > 0
    )
    # Dropped, its value is of no account; and it is not the same as given.
    np.testing.assert_array_equal(loss(value, 0.0), loss(other, 0.0))
    assert np.abs(loss(value, 0.0) - loss(value, 0.9)).max() > 1e-6
    assert {port.role for port in forward.inputs} == {"state", "time", "condition"}


@pytest.mark.parametrize("case", CASES)
def test_guidance_of_a_sampler_leaves_it_out(case: str, tmp_path: Path) -> None:
    """With scale 0 the condition has no effect, with scale 1 it is as without guidance."""
    conditioning, field = CASES[case]
    low = lowered(tmp_path, conditioning)
    program = low.programs[0]
    source = program.sources[low.module.entry(program.entry).inputs[1].name]
    assert isinstance(source, ConditionSource) and source.condition == ("class" if field == "y" else field)
    oracle, value = Interpreter(low.module, weights_of(low, 0.3)), value_of(low, field)
    x = RNG.standard_normal((3, 1, 8, 8))

    def sample(value: np.ndarray, scale: float) -> np.ndarray:
        (out,) = oracle.run(program.entry, x, value, np.full(3, scale))
        return out

    other = np.roll(value, 1, axis=0)
    np.testing.assert_allclose(sample(value, 0.0), sample(other, 0.0), rtol=1e-9, atol=1e-12)
    assert np.abs(sample(value, 1.0) - sample(other, 1.0)).max() > 1e-6


def test_a_null_is_given_by_data_and_requests(tmp_path: Path) -> None:
    """Dropped, or left out by guidance, a condition is the null of the sample."""
    low = lowered(tmp_path, "style: {kind: vector, dropout: 0.2, null_embedding: given}")
    assert low.updates[0].batch == ("x", "style", "style_null")
    assert [(c.name, c.shape, c.required) for c in low.conditions] == [
        ("style", (6,), True),
        ("style_null", (6,), True),
    ]
    oracle, value = Interpreter(low.module, weights_of(low, 0.3)), VALUES["style"]
    null, x, t = np.roll(value, 1, axis=0), RNG.standard_normal((2, 3, 1, 8, 8)), np.array([5, 500, 900])

    def loss(value: np.ndarray, null: np.ndarray, drop: float) -> np.ndarray:
        return oracle.run("loss.terms", x[0], value, null, t, x[1], np.full(3, drop))[0]

    np.testing.assert_array_equal(loss(value, null, 0.0), loss(null, value, 0.9))
    assert np.abs(loss(value, null, 0.0) - loss(value, null, 0.9)).max() > 1e-6
    program = low.programs[0]

    def sample(value: np.ndarray, null: np.ndarray, scale: float) -> np.ndarray:
        given = {"x": x[0], "style": value, "style_null": null, "scale": np.full(3, scale)}
        return oracle.run(program.entry, *(given[name] for name in program.sources))[0]

    np.testing.assert_allclose(sample(value, null, 0.0), sample(null, value, 1.0), rtol=1e-9, atol=1e-12)
    with pytest.raises(DiagnosticError, match="reads field `features_null`, which the data does not have"):
        lowered(tmp_path, "features: {kind: features, dropout: 0.2, null_embedding: given}")


def test_several_conditions_are_told_together(tmp_path: Path) -> None:
    conditioning = "class: {kind: label}, style: {kind: vector, dropout: 0.1}, sketch: {kind: map}"
    low = lowered(tmp_path, conditioning)
    (update,) = low.updates
    assert update.batch == ("x", "y", "style", "sketch")
    assert [draw.name for draw in update.draws] == ["t", "noise", "drop", "drop_style"]
    assert [c.name for c in low.conditions] == ["class", "style", "sketch"]
    assert [c.form for c in low.conditions] == ["label", "array", "array"]


def test_tokens_are_masked_and_padded() -> None:
    """Embedded tokens and their mask; none is the pad token alone."""
    from latentc.components import load
    from latentc.ir.builder import ModuleBuilder

    spec = load_spec_with_text()
    condition = load("conditions")["tokens"].model_validate({"kind": "tokens", "dropout": 0.1, "pad": 2})
    tokens, mask = condition.ports("text", spec)
    assert (tokens.values, mask.type.dtype, condition.token_shape("text", spec).length) == (11, "bool", 7)
    b = ModuleBuilder().function("f")
    operands = tuple(b.input(port.name, port.type) for port in (tokens, mask))
    embedded, counts = condition.tokens(b, "text_embedder", "text", operands, 4, condition.sizes("text", spec))
    nulls = condition.null_operands(b, "text", operands, spec)
    b.output(embedded, counts, *nulls)
    b.finish()
    table, given, real = RNG.standard_normal((11, 4)), RNG.integers(0, 11, (2, 7)), RNG.random((2, 7)) < 0.5
    oracle = Interpreter(b.module.finish(), {"text_embedder.weight": table})
    out, counted, pad, first = oracle.run("f", given, real)
    np.testing.assert_array_equal(out, table[given])
    np.testing.assert_array_equal(counted, real)
    assert pad == 2 and first.tolist() == [[True, *[False] * 6]]
    (request,) = condition.requests("text", spec)
    assert (request.form, request.vocabulary, request.mask, request.pad, request.shape) == ("tokens", 11, True, 2, (7,))


@pytest.mark.parametrize(
    ("conditioning", "message"),
    [
        ("mel: {kind: array}", "which the data does not have"),
        ("text: {kind: tokens}", "condition `text` enters as tokens"),
        ("style: {kind: map}", "has 2 or 3 axes per sample"),
        ("style: {kind: timestep}", "cannot be used under `conditioning.style`"),
        ("style: {kind: label}", "is not a label"),
        ("seen: {kind: encoded, network: eye}", "network `eye` does not exist"),
    ],
)
def test_what_does_not_fit_is_said(conditioning: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=message):
        lowered(tmp_path, conditioning)


def test_a_token_transformer_begins_with_one_condition(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        "latentc: 1\nname: told\nextends: digits_llamagen\n"
        "data: {kind: npz, path: d.npz, tokens: {vocabulary: 17, grid: [8, 8]}, classes: 10,\n"
        "  fields: {text: {shape: [7], classes: 11}, text_mask: {shape: [7], dtype: bool}}}\n"
        "conditioning: {text: {kind: tokens}}\n"
    )
    with pytest.raises(DiagnosticError, match=r"a single condition, but takes `class`, `text`"):
        load_spec(file)
    file.write_text(file.read_text() + "backbone: {conditions: [class]}\n")
    (program,) = lower(load_spec(file)).programs
    assert "text" not in program.sources  # no network is given it
    file.write_text(file.read_text().replace("[class]", "[text]"))
    (program,) = lower(load_spec(file)).programs
    assert {"text", "text_mask"} <= program.sources.keys() and "y" not in program.sources


def test_masks_are_truth_values() -> None:
    """Numbers would be added to the scores of attention."""
    with pytest.raises(DiagnosticError, match=r"reads its mask from field `caption_mask`, which has dtype f32"):
        load_spec("pixart", overrides=["data.fields.caption_mask.dtype=f32"])


def test_requests_of_tokens_have_no_number_as_default() -> None:
    kinds = [cls for cls in load("conditions").values() if issubclass(cls, TokenSequence)]
    assert len(kinds) >= 4 and {cls.model_fields["default"].annotation for cls in kinds} == {type(None)}
