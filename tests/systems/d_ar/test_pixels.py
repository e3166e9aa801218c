"""D-AR's model of codes, whose engine draws pixels: the tokenizer's decoder draws noise and takes steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_data import error
from random_weights import weights_of

import latentc_runtime
from latentc import api
from latentc.components.sampler import Sampler
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors
from latentc_runtime.sources import Given, input_array

STAGE = """
latentc: 1
name: stage
extends: digits_d_ar_tokenizer
backbone: {width: 16, depth: 1, condition_depth: 1, pixel_depth: 1, queries: 6, group: 2, codebook: 11, channels: 4}
sampler: {kind: sequential_autoencode, steps: 3}
"""
MODEL = (
    *("data={kind: npz, path: codes.npz, classes: 3, tokens: {vocabulary: 11, grid: [6]}}", "backbone.width=16"),
    *("backbone.depth=1", "backbone.block.mixer.heads=2", "backbone.block.feed_forward.multiple_of=8"),
    "sampler.guidance={scale: 3.0, first: 1.5}",
)


class Made:
    """A tiny model, its tokenizer, and weights of both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stage = folder, folder / "stage.yaml"
        self.stage.write_text(STAGE)
        self.overrides = [*MODEL, f"data.first_stage={{spec: {self.stage}}}"]
        self.weights = {"main": self._weights("d_ar", self.overrides), "first_stage": self._weights(self.stage, [])}

    def _weights(self, spec: Any, overrides: Sequence[str]) -> Path:
        file = self.folder / f"{Path(str(spec)).stem}.safetensors"
        found = weights_of(lower(load_spec(spec, overrides=overrides)), 0.3, 5)
        write_safetensors(file, {name.removeprefix("main."): Array(np.asarray(a)) for name, a in found.items()})
        return file

    def compiled(self, name: str, *more: str, of: Sequence[str] = ("main", "first_stage")) -> Path:
        given = [f"{network}={self.weights[network]}" for network in of]
        api.compile("d_ar", given, self.folder / name, overrides=[*self.overrides, *more])
        return self.folder / name


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_an_engine_draws_the_image_of_its_codes(made: Made) -> None:
    """As the tokenizer decodes the codes of an engine without it from the same noise, whatever else is in a batch."""
    classes, seeds = [0, 1, 2, 1], [5, 6, 7, 2**40]
    codes = np.asarray(latentc_runtime.load(made.compiled("codes", of=("main",))).sample(classes, seeds=seeds))
    bundle = made.compiled("pixels")
    pipe = latentc_runtime.load(bundle)
    (program,) = pipe.manifest.programs
    noise = next(entry for entry in program.inputs if entry.name == "first_stage_noise")
    images = np.asarray(pipe.sample(classes, seeds=seeds))
    assert images.shape == (4, 1, 8, 8) and program.outputs[0].output.medium == "image"
    drawn = input_array(noise, Given(np.array(seeds, np.uint64)))
    lowered = lower(load_spec(made.stage))
    decode = next(p for p in lowered.programs if p.name == "decode")
    (expected,) = Interpreter(lowered.module, weights_of(lowered, 0.3, 5)).run(decode.entry, codes, drawn)
    assert error(images, expected) < 1e-5
    alone = [np.asarray(pipe.sample([c], seeds=[s]))[0] for c, s in zip(classes, seeds, strict=True)]
    assert error(np.stack(alone), images) < 1e-5
    other = np.asarray(pipe.sample([1], seeds=[8]))
    assert error(other[0], images[1]) > 1e-2


@pytest.mark.parametrize("form", ["host", "loop", "unroll"])
def test_engines_of_every_form_are_verified(form: str, made: Made) -> None:
    report = api.verify(made.compiled(form, f"target.form={form}"))
    assert report.ok, report.text()
    assert any("first_stage" in comparison.what for comparison in report.comparisons)


def test_a_first_stage_without_a_decoder_is_refused(made: Made) -> None:
    text = STAGE.replace("sampler: {kind: sequential_autoencode, steps: 3}", "sampler: null")
    made.stage.write_text(text)
    with pytest.raises(DiagnosticError, match="is not the spec of an autoencoder"):
        lower(load_spec("d_ar", overrides=made.overrides))


def test_guidance_grows_from_the_first_scale() -> None:
    sampler = load_spec("d_ar").sampler
    assert isinstance(sampler, Sampler)
    scales = 1 + 7 * sampler.strengths(256)  # type: ignore[attr-defined]
    assert np.allclose(scales, np.linspace(1.2, 8.0, 256))
    with pytest.raises(DiagnosticError, match="no proportion to the default scale"):
        load_spec("d_ar", overrides=["sampler.guidance={scale: 1.0, first: 1.2}"])
