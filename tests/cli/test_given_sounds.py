"""Sound files as conditions of a request."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from latentc.api.sampling import given_conditions, with_sounds
from latentc.diagnostics import DiagnosticError
from latentc_runtime.manifest import Output
from latentc_runtime.sources import Condition

AXES = ("channel", "time")
AUDIO = Condition("audio", "array", (2, 4), "f32", axes=AXES)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two samples of two channels, four samples per second."""
    path = tmp_path / "clip.WAV"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(4)
        file.writeframes(np.array([[16384, -16384], [0, 8192]], "<i2").tobytes())
    return path


def test_a_sound_file_is_read_in_the_range_of_the_model_and_padded_with_silence(clip: Path) -> None:
    made = Output((2, 4), "f32", "audio", AXES, (0.0, 2.0), rate=4.0)
    values = given_conditions({"audio": clip, "word": "clip.WAV"})
    found = with_sounds(values, [AUDIO], made)
    assert found["word"] == "clip.WAV"
    assert np.allclose(found["audio"], [[1.5, 1.0, 1.0, 1.0], [0.5, 1.25, 1.0, 1.0]])
    short = Condition("audio", "array", (1, 1), "f32", axes=AXES)
    assert np.allclose(with_sounds(values, [short], made)["audio"], [[1.0]]), "the mean of the channels, cut"


@pytest.mark.parametrize(
    ("condition", "rate", "said"),
    [
        (AUDIO, 8.0, "4 samples per second, not 8"),
        (AUDIO, None, "condition `audio` takes none"),
        (Condition("audio", "array", (2, 4), "f32"), 4.0, "condition `audio` takes none"),
        (Condition("audio", "array", (3, 4), "f32", axes=AXES), 4.0, "has 2 channels, but the model takes 3"),
    ],
)
def test_refused_sounds(clip: Path, condition: Condition, rate: float | None, said: str) -> None:
    with pytest.raises(DiagnosticError, match="E0403") as caught:
        with_sounds({"audio": clip}, [condition], Output((2, 4), "f32", "audio", AXES, (-1.0, 1.0), rate=rate))
    assert said in str(caught.value)


def test_a_file_that_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.wav").write_bytes(b"no")
    made = Output((2, 4), "f32", "audio", AXES, (-1.0, 1.0), rate=4.0)
    with pytest.raises(DiagnosticError, match="is not a PCM WAV file"):
        with_sounds(given_conditions({"audio": tmp_path / "no.wav"}), [AUDIO], made)
