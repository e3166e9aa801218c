"""A mixture of experts from half-precision shards under the authors' names: every expert stays where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from parity_data import SIZES, load

from latentc import api
from latentc.measure.subject import weights_of
from latentc.weights import Array, Stored, write_safetensors
from latentc_runtime.bundle import open_bundle

TARGET = ["target.engine=tensorrt", "target.precision=bf16", "target.plans=false", "sampler.steps=3"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards with an expert's tensors now in one, now in the other, and their index."""
    weights = {n: Array(a.astype(ml_dtypes.bfloat16)) for n, a in load("dit_moe.eval").weights.items()}
    where = {name: f"model-{1 + i % 2}.safetensors" for i, name in enumerate(weights)}
    (tmp_path / "shards").mkdir()
    for file in set(where.values()):
        write_safetensors(tmp_path / "shards" / file, {n: w for n, w in weights.items() if where[n] == file})
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    return index


def compiled(shards: Path, bundle: Path, **options: Any) -> Any:
    return api.compile("dit_moe", shards, bundle, None, [*SIZES["dit_moe"], *TARGET], names="official", **options)


def initialisers(bundle: Path) -> dict[str, Any]:
    found = {}
    for file in bundle.glob("*.onnx"):
        model = onnx.load(str(file), load_external_data=False)
        found.update({proto.name: proto for proto in model.graph.initializer})
    return found


def test_nothing_is_written(shards: Path, tmp_path: Path) -> None:
    manifest = compiled(shards, tmp_path / "b", by_reference=True)
    assert {Path(r.location).name for r in manifest.references.values()} == {
        "model-1.safetensors",
        "model-2.safetensors",
    }
    assert manifest.plans == () and manifest.precision == "bf16"
    experts = {n: p for n, p in initialisers(tmp_path / "b").items() if ".mlp.w" in n}
    assert len(experts) == 2 * 4 * 3
    for proto in experts.values():
        where = {entry.key: entry.value for entry in proto.external_data}
        assert proto.data_type == onnx.TensorProto.BFLOAT16 and where["location"] in manifest.references
    derived = [entry.size for name, entry in manifest.files.items() if name.startswith("weights/")]
    assert sum(derived) < 100_000, "positions and constants, no expert"


def test_the_bundle_gives_the_weights_back(shards: Path, tmp_path: Path) -> None:
    """Of a bundle that holds its weights: by the stacks they were picked from, in the precision they have there."""
    from latentc.lower import lower
    from latentc.pipeline import optimised
    from latentc.spec import load_spec
    from latentc.weights import materialise

    class Opened:
        bundle = None

    manifest = compiled(shards, tmp_path / "b")
    assert not manifest.references
    Opened.bundle = open_bundle(tmp_path / "b")  # type: ignore[assignment]
    spec = load_spec(tmp_path / "b" / "spec.yaml")
    lowered = lower(spec, [3])
    back, _ = weights_of(Opened, lowered, optimised(lowered, spec))  # type: ignore[arg-type]
    wanted = load("dit_moe.eval").weights
    for e in range(4):
        for ours, theirs in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            exact = wanted[f"blocks.1.moe.experts.{e}.{theirs}.weight"].astype(ml_dtypes.bfloat16)
            np.testing.assert_array_equal(materialise(back[f"main.blocks.1.mlp.{ours}"])[e], exact)
    assert not isinstance(back["main.blocks.1.mlp.w1"], Stored), "its parts lie apart"
