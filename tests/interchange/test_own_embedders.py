"""A DiT trained in diffusers, whose blocks have embedders of their own, is taken over with all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from tiny_pipelines import ours, pipeline, same_weights, settings, theirs

from latentc import api
from latentc.spec import load_spec
from latentc.weights import materialise, open_weights


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The pipeline, and the spec that it became."""
    folder = tmp_path_factory.mktemp("own")
    made = pipeline(folder / "theirs", copies=False)
    found = api.import_checkpoint(folder / "theirs", folder / "ours")
    assert found.notes == ()
    return made, found.spec


def test_images_are_those_of_the_pipeline(imported: tuple[Any, Path], tmp_path: Path) -> None:
    pipe, spec = imported
    assert "extends: diffusers_dit" in spec.read_text()
    api.compile(spec, None, tmp_path / "bundle", overrides=["sampler.steps=5"])
    made = ours(tmp_path / "bundle", [3, 999], (4, 4, 4))
    assert made.std() > 0.05
    assert np.abs(made - theirs(pipe, [3, 999], 5)).max() < 1e-4


def test_there_and_back(imported: tuple[Any, Path], tmp_path: Path) -> None:
    pipe, spec = imported
    made = api.export_diffusers(spec, tmp_path / "back")
    assert made.pipeline == "DiTPipeline"
    after = diffusers.DiTPipeline.from_pretrained(tmp_path / "back")
    same_weights(pipe.transformer, after.transformer)
    assert settings(pipe.transformer) == settings(after.transformer)


def test_one_tensor_that_differs_is_enough(tmp_path: Path) -> None:
    """Copies become the `dit` of the authors; of one changed number, every block's embedder is kept."""
    made = pipeline(tmp_path / "theirs", names=False, num_layers=3)
    table = made.transformer.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight
    api.import_checkpoint(tmp_path / "theirs/transformer", tmp_path / "copies")
    assert "extends: dit\n" in (tmp_path / "copies/spec.yaml").read_text()
    table.data[3, 5] += 1.0
    made.transformer.save_pretrained(tmp_path / "theirs/transformer")
    api.import_checkpoint(tmp_path / "theirs/transformer", tmp_path / "own")
    spec = tmp_path / "own/spec.yaml"
    api.convert_weights(spec, None, tmp_path / "own.safetensors")
    assert load_spec(spec).networks["main"].kind == "diffusers_dit"
    kept = materialise(open_weights(tmp_path / "own.safetensors")["embedders.2.y_embedder.weight"])
    assert np.array_equal(kept, table.data.numpy())
