"""Batch norms of a project that trains in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import python
from parity_data import error
from random_weights import random_weights
from safetensors.numpy import load_file, save_file

from latentc import api
from latentc.checkpoint import network_params
from latentc.emit.optimizers import training_files
from latentc.files.templates import template
from latentc.lower import lower
from latentc.spec import load_spec

CODE = """
import torch
import torch.distributed as dist
from torch import nn

from batch_norm import synchronise

dist.init_process_group("gloo")
rank, rows = dist.get_rank(), 3
torch.manual_seed(0)
x, wanted = torch.randn(2, 2 * rows, 4, *SPACE).unbind()
one, ours = (nn.Sequential(nn.LAYER, nn.NORM(5, momentum=0.3)) for _ in range(2))
ours.load_state_dict(one.state_dict())
synchronise(ours)


def train(model, x, wanted):
    x = x.clone().requires_grad_()
    loss = (model(x)[:, :4] - wanted).square().mean()
    (along,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + along.square().sum()).backward()
    return along.detach()


own = slice(rows * rank, rows * (rank + 1))
along, expected = train(ours, x[own], wanted[own]), train(one, x, wanted)
# The loss of two processes is the mean of theirs, and each has the gradient of the sum.
torch.testing.assert_close(along / 2, expected[own], rtol=0, atol=1e-6)
for name, value in one.state_dict().items():
    torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
assert ours[1].running_mean.abs().max() > 0.01
torch.testing.assert_close(ours.eval()(x), one.eval()(x))
for model in (ours, one):
    model.train().zero_grad()
for model, part in ((ours, own), (one, slice(None))):
    (model(x[part])[:, :4] - wanted[part]).square().mean().backward()
for (name, mine), whole in zip(ours.named_parameters(), one.parameters(), strict=True):
    dist.all_reduce(mine.grad)
    torch.testing.assert_close(mine.grad / 2, whole.grad, rtol=1e-4, atol=1e-6, msg=name)
print("as one")
"""


@pytest.mark.parametrize(
    ("layer", "norm", "space"), [("Conv2d(4, 5, 1)", "BatchNorm2d", (2, 3)), ("Linear(4, 5)", "BatchNorm1d", ())]
)
def test_statistics_are_those_of_all_processes(layer: str, norm: str, space: tuple[int, ...], tmp_path: Path) -> None:
    """Outputs, first and second derivatives and running statistics are those of one process with the whole batch."""
    (tmp_path / "batch_norm.py").write_text(template("project/support/batch_norm.py"))
    code = CODE.replace("LAYER", layer).replace("NORM", norm).replace("*SPACE", f"*{space}")
    done = python(tmp_path, "-c", code, ranks=2)
    assert done.stdout.count("as one") == 2, done.stdout + done.stderr


def test_projects_without_batch_norms_have_no_such_file() -> None:
    for system, has in (("digits_biggan", True), ("digits_dit", False)):
        spec = load_spec(system)
        files = training_files(spec.train, lower(spec).module)
        assert (
            ("latentc_support/batch_norm.py" in files)
            == has
            == ("from latentc_support.batch_norm import" in files["train.py"])
        )


BLOCK = "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm, affine: true}, "
ENCODER = "{kind: patch_encoder, reads: picture, width: 8, depth: 1, patch: 4, positions: {kind: learned}, "
ENCODER += f"output: mean, block: {BLOCK}condition: {{kind: in_context}}}}, "
ENCODER += "head: {features: 6, hidden: [8], batch_norm: true}}"
HEAD = (
    *("backbone.width=8", "backbone.depth=1", "backbone.patch=4", "backbone.block.mixer.heads=2"),
    *(f"networks.encoder={ENCODER}", "conditioning.picture={kind: encoded, network: encoder}"),
    "data={kind: npz, path: x.npz, shape: [1, 8, 8], classes: 10, fields: {picture: {shape: [1, 8, 8]}}}",
    *("train.steps=3", "train.batch_size=4", "train.schedule={kind: constant}", "train.workers=0"),
    "train.precision=fp32",
)


def test_batch_norms_of_vectors_are_trained(tmp_path: Path) -> None:
    """In a head of an encoder: statistics move in training, are saved, and are those of every backend."""
    draw = np.random.default_rng(0)
    samples = {name: draw.normal(size=(16, 1, 8, 8)).astype(np.float32) for name in ("x", "picture")}
    np.savez(tmp_path / "x.npz", y=draw.integers(0, 10, 16), **samples)
    api.emit("digits_dit", tmp_path, None, HEAD, force=True)
    assert "self.norm2 = nn.BatchNorm1d(features, eps=1e-5, affine=False)" in (tmp_path / "model.py").read_text()
    done = python(tmp_path, "train.py", "--sample_every", "null")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "runs" / "train" / "weights_raw.safetensors"
    norm = "encoder.head.norm1"
    trained = load_file(file)
    assert trained[f"{norm}.num_batches_tracked"] == 3
    assert np.abs(trained[f"{norm}.running_mean"]).max() > 1e-3 and np.ptp(trained[f"{norm}.running_var"]) > 1e-3
    given: Any = {"overrides": HEAD, "network": "encoder", "method": "encode"}
    pictures = {"x": 2 * samples["picture"][:4]}
    encoded = {
        backend: next(iter(api.run_method("digits_dit", [str(file)], pictures, backend, **given).values()))
        for backend in ("oracle", "torch", "onnx", "openvino")
    }
    assert all(error(found, encoded["oracle"]) < 1e-5 for found in encoded.values())
    batch = {"x": samples["x"][:4], "y": np.arange(4), "picture": pictures["x"]}
    batch |= {"t": 200 * np.arange(4), "noise": samples["x"][4:8], "drop": np.full(4, 0.5, np.float32)}
    found = {
        backend: api.loss("digits_dit", [str(file)], batch, backend, overrides=HEAD, training=True)
        for backend in ("oracle", "torch")
    }
    assert error(*(found[backend]["loss"] for backend in ("torch", "oracle"))) < 1e-5


def test_weights_without_counts_of_batches_are_read(tmp_path: Path) -> None:
    """Files that latentc writes have none: PyTorch's batch norms count batches, and nothing reads the count."""
    frozen = [*HEAD, "networks.encoder.pretrained=encoder.safetensors", "networks.encoder.frozen=true"]
    lowered = lower(load_spec("digits_dit", None, frozen))
    own = random_weights(network_params(lowered, lowered.networks["encoder"]), draw := np.random.default_rng(0), 0.3)
    save_file(
        {n: np.float32(np.abs(a) if n.endswith("_var") else a) for n, a in own.items()},
        tmp_path / "encoder.safetensors",
    )
    np.savez(tmp_path / "x.npz", y=np.zeros(8, int), **dict.fromkeys(("x", "picture"), draw.normal(size=(8, 1, 8, 8))))
    api.emit("digits_dit", tmp_path, None, frozen, force=True)
    done = python(tmp_path, "train.py", "--sample_every", "null")
    assert done.returncode == 0, done.stderr
    trained = load_file(tmp_path / "runs" / "train" / "weights_raw.safetensors")
    assert np.allclose(trained["encoder.head.norm1.running_var"], np.abs(own["head.norm1.running_var"]), rtol=1e-6)
