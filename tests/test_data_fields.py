"""Fields of data: short and long forms, media, and what contradicts itself."""

from __future__ import annotations

import pytest

from latentc.components.fields import Field
from latentc.diagnostics import DiagnosticError
from latentc.spec import Spec, load_spec, resolved_yaml, spec_from_text


def spec_of(data: str) -> Spec:
    return load_spec("digits_dit", overrides=[f"data={data}"])


def test_short_forms_declare_fields() -> None:
    digits = spec_of("{kind: digits}").data.fields
    assert list(digits) == ["x", "y"]
    assert digits["x"].shape == (1, 8, 8) and digits["x"].axes == ("channel", "height", "width")
    assert (digits["x"].medium, digits["x"].range, digits["x"].dtype) == ("image", (-1.0, 1.0), "f32")
    assert (digits["y"].shape, digits["y"].classes, digits["y"].dtype) == ((), 10, "i64")
    tokens = load_spec("digits_llamagen").data.fields["tokens"]
    assert (tokens.shape, tokens.grid, tokens.classes, tokens.medium) == ((64,), (8, 8), 17, "image")


@pytest.mark.parametrize("shape", ["[5, 8, 8]", "[2, 8, 8]", "[4, 8, 8]"])
def test_only_one_or_three_channels_are_a_picture(shape: str) -> None:
    field = spec_of(f"{{kind: npz, classes: 10, shape: {shape}}}").data.fields["x"]
    assert (field.medium, field.range) == ("array", None)


def test_latents_and_codes_are_no_picture() -> None:
    assert load_spec("dit").data.fields["x"].medium == "array"
    assert load_spec("llamagen").data.fields["tokens"].medium == "array"


def test_long_form() -> None:
    text = (
        "{kind: npz, path: d.npz, fields: {x: {shape: [1, 16, 16], axes: [channel, width, height], medium: image}, "
        "sound: {shape: [1, 8192], medium: audio, rate: 22050}, mel: {shape: [80, 32], axes: [mel, frame]}, "
        "cloud: {shape: [64, 3], medium: points}, mask: {shape: [7], dtype: bool}, y: {classes: 10}}}"
    )
    spec = spec_of(text)
    fields = spec.data.fields
    assert (spec.data.shape, spec.data.classes) == ((1, 16, 16), 10)  # the short forms say the same
    assert (spec.data.shape_, spec.data.classes_) == (None, 0)  # and the data holds what the spec says
    assert fields["x"].axes == ("channel", "width", "height") and fields["x"].size("channel") == 1
    assert fields["sound"].axes == ("channel", "time") and fields["sound"].range == (-1.0, 1.0)
    assert (fields["mel"].medium, fields["mel"].range) == ("array", None)
    assert fields["cloud"].axes == ("point", "coordinate")
    assert (fields["mask"].axes, fields["mask"].dtype) == (("axis_0",), "bool")
    assert spec_from_text(resolved_yaml(spec)) == spec


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"shape": (5, 8, 8), "medium": "image"}, "image of 5 channels: only 1 (grey) and 3 (RGB) can be displayed"),
        ({"shape": (3, 8, 8, 8), "medium": "image"}, "image with no axis `height`"),
        ({"shape": (3, 8), "axes": ("a",)}, "1 axes are named, but the shape has rank 2"),
        ({"shape": (3, 8), "axes": ("a", "a")}, "two axes have the same name"),
        ({"shape": (1, 80), "medium": "audio"}, "audio needs a sampling rate"),
        ({"shape": (1, 80), "rate": 8.0}, "a field of medium `array` has no rate"),
        ({"shape": (8,), "medium": "text"}, "a text needs a vocabulary"),
        ({"shape": (8,), "medium": "text", "classes": 3, "alphabet": "ab"}, "an alphabet of 2 characters"),
        ({"shape": (8,), "classes": 3, "grid": (3, 3)}, "a grid [3, 3] holds 9 tokens"),
        ({"shape": (8,), "classes": 3, "grid": (8,), "medium": "image"}, "need a grid of rank 2"),
        ({"shape": (8,), "classes": 3, "dtype": "f32"}, "a field with `classes` must hold integers"),
        ({"shape": (8,), "range": (1.0, 1.0)}, "range [1.0, 1.0] is empty"),
    ],
)
def test_faults(field: dict[str, object], said: str) -> None:
    assert said in " ".join(message for _, message, _ in Field(**field).faults())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ("{kind: npz, classes: 10}", "E0301", "neither `shape` nor `tokens`"),
        ("{kind: npz, classes: 10, shape: [1, 8, 8], tokens: {vocabulary: 3, grid: [4, 4]}}", "E0301", "both"),
        (
            "{kind: npz, classes: 10, shape: [8]}",
            "E0305",
            "takes arrays [C, H, W] or [C, T], but the data has arrays [8]",
        ),
        ("{kind: npz, shape: [1, 8, 8]}", "E0305", "is a label, but the data has none"),
        ("{kind: npz, classes: 10, shape: [1, 65536, 65536]}", "E0305", "elements, more than 2^31"),
        ("{kind: npz, classes: 9, shape: [1, 8, 8], fields: {y: {classes: 10}}}", "E0305", "`fields.y` has 10 classes"),
        ("{kind: npz, classes: 9, shape: [1, 8, 8], fields: {x: {shape: [1, 4, 4]}}}", "E0305", "`fields.x` says"),
        ("{kind: npz, classes: 9, fields: {x: {shape: [1, 8, 8], axes: [a]}}}", "E0305", "1 axes are named"),
    ],
)
def test_contradictions_are_diagnostics(data: str, code: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        spec_of(data)
    assert any(d.code == code and said in d.message for d in caught.value.diagnostics), caught.value
