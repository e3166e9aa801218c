"""Image files as conditions of a request."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latentc.api.sampling import given_conditions, with_pictures
from latentc.diagnostics import DiagnosticError
from latentc_runtime.sources import Condition


def test_an_image_file_is_the_centre_of_its_pixels_at_the_size_of_the_condition(tmp_path):
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, 2:10] = [255, 0, 102]  # the centre
    Image.fromarray(pixels).save(tmp_path / "wide.PNG")
    values = given_conditions({"image": tmp_path / "wide.PNG", "word": "wide.PNG"})
    assert values["word"] == "wide.PNG"
    found = with_pictures(values, [Condition("image", "array", (3, 4, 4), "f32")])["image"]
    assert found.shape == (3, 4, 4) and found.dtype == np.float32
    assert np.allclose(found[:, 1:3, 1:3], np.array([1, -1, -0.2])[:, None, None], atol=0.02)
    grey = with_pictures({"image": values["image"]}, [Condition("image", "array", (1, 8, 8), "f32")])["image"]
    assert grey.shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("shape", "said"), [((5,), "condition `image` is none"), ((3, 4, 4), "cannot be read as an image")]
)
def test_refused_pictures(tmp_path, shape, said):
    path = tmp_path / "no.png"
    path.write_bytes(b"no")
    with pytest.raises(DiagnosticError, match="E0403") as caught:
        with_pictures(given_conditions({"image": path}), [Condition("image", "array", shape, "f32")])
    assert said in str(caught.value)
