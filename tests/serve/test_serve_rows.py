"""A program of any number of rows behind a server: grids, points, limits, what the server says about it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from bundles import tiny_bundle
from served import served

import latentc_runtime

BOXES = ("data.shape=[3, 4, 4]", *(f"networks.main.{size}" for size in ("width=6", "depth=2", "mapping_width=8")))
BOXES = (*BOXES, "networks.main.points=4", "sampler.chunk=6")
BOXES = (*BOXES, "networks.discriminator.widths=[4, 6]", "networks.encoder.widths=[4, 6]")


def test_a_server_renders_at_a_size(tmp_path: Path) -> None:
    boxes = latentc_runtime.load(tiny_bundle("boxes_pix2nerf", tmp_path / "b", BOXES, std=0.2), "cpu")
    with served(f"boxes={boxes.bundle.folder}", max_samples=8) as (web, _):
        answer = web.get("/v1/models/boxes/sample?classes=1&seeds=3&program=render&pixels=5,7&format=npz")
        found = np.load(io.BytesIO(answer.content))["samples"]
        assert np.array_equal(found, boxes.sample([1], 3, conditions={"pixels": [5, 7]}, program="render"))
        asked = {"program": "render", "conditions": {"pixels": 6}, "classes": [1]}
        picture = web.post("/v1/models/boxes/sample", json=asked)
        assert picture.headers["content-type"] == "image/png"
        points = np.random.default_rng(0).uniform(-0.3, 0.3, (8, 3)).tolist()
        asked = {"program": "field", "conditions": {"points": points}, "classes": [1], "format": "json"}
        outputs = web.post("/v1/models/boxes/sample", json=asked).json()["samples"][0]["outputs"]
        assert np.shape(outputs["colours"]) == (8, 3) and np.shape(outputs["density"]) == (8, 1)
        refused = web.get("/v1/models/boxes/sample?classes=1&program=render&pixels=8")  # 11 chunks
        assert refused.status_code == 400 and "at most" in refused.json()["message"]
        about = web.get("/v1/models/boxes").json()
        takes = {one["name"]: one["takes"] for one in about["conditions"]}
        assert "any number P of rows" in takes["points"] and "any number" not in takes["camera"]
        schema = web.get("/openapi.json").json()
        assert '"minItems": 1' in str(schema).replace("'", '"')
