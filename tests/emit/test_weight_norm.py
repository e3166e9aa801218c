"""Layers with weight normalisation start from the first batch, that of all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from emitted import emitted
from forked import python
from tiny_systems import SYSTEMS

from latentc.emit.helpers import helper_source
from latentc.emit.optimizers import training_files
from latentc.files.templates import template
from latentc.lower import lower
from latentc.spec import load_spec

CLASSES = ("weight_norm", "WeightNormed", "normed_once", "WNConv2d", "WNConvTranspose2d", "WNLinear")
CODE = """
import torch
import torch.distributed as dist
from torch import nn

from layers import WNConv2d, WNConvTranspose2d, WNLinear
from weight_norm import start_from_data

dist.init_process_group("gloo")
rank, rows = dist.get_rank(), 3
torch.manual_seed(0)
x = 2 + 3 * torch.randn(2 * rows, 4, 2, 3)


def layers():
    torch.manual_seed(1)
    up = WNConvTranspose2d(5, 2, 2, stride=2, dim=1, output_std=0.1)
    return nn.Sequential(WNConv2d(4, 5, 1), up, WNConvTranspose2d(2, 2, 1, output_std=0), nn.Flatten(), WNLinear(48, 3))


ours, plain, expected = layers(), layers(), x
start_from_data([ours], lambda: ours(x[rows * rank : rows * (rank + 1)]), torch.device("cpu"))
with torch.no_grad():
    for layer, std in zip(plain, (1, 0.1, None, None, 1)):
        expected = layer(expected)
        if std:  # layer by layer, each on what those before it give: g *= scale, b -= mean * scale
            axes = [0, *range(2, expected.ndim)]
            mean, variance = expected.mean(axes), expected.var(axes, correction=0)
            scale = std / (variance + 1e-10).sqrt()
            layer.g *= scale
            layer.bias -= mean * scale
            column = (-1, *[1] * (expected.ndim - 2))
            expected = (expected - mean.view(column)) * scale.view(column)
for (name, mine), whole in zip(ours.named_parameters(), plain.parameters(), strict=True):
    torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6, msg=name)
torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)
reference = nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(5, 2, 2), dim=1)
reference.parametrizations.weight.original0.data = ours[1].g.data.view(1, 2, 1, 1)
reference.parametrizations.weight.original1.data = ours[1].weight.data
torch.testing.assert_close(ours[1].normed(), reference.weight)
print("as one")
"""


def test_layers_start_from_the_first_batch(tmp_path: Path) -> None:
    source = helper_source(CLASSES)
    imports = ("from collections.abc import Callable", "import torch", "import torch.nn.functional as F")
    (tmp_path / "layers.py").write_text("\n".join([*imports, "from torch import Tensor, nn", source]))
    (tmp_path / "weight_norm.py").write_text(template("project/support/weight_norm.py"))
    done = python(tmp_path, "-c", CODE, ranks=2)
    assert done.stdout.count("as one") == 2, done.stdout + done.stderr


def test_projects_without_weight_norm_have_no_such_file() -> None:
    for overrides, has in ((["backbone.blocks=1"], True), (["backbone.blocks=1", "backbone.weight_norm=false"], False)):
        spec = load_spec("pixelcnn_pp", None, overrides)
        files = training_files(spec.train, lower(spec).module)
        assert ("latentc_support/weight_norm.py" in files) == has == ("start_layers(" in files["train.py"])


def test_weights_are_normalised_once_for_all_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    spec = load_spec("pixelcnn_pp", None, list(SYSTEMS["pixelcnn_pp"].sizes))
    with emitted(lower(spec, to_emit=True), spec, tmp_path) as project:
        model, normed = project.model.NETWORKS["main"]().eval(), []
        original = project.model.weight_norm
        monkeypatch.setattr(project.model, "weight_norm", lambda *args: normed.append(1) or original(*args))
        (program,) = project.sampler.PROGRAMS["sample"].values()
        u, y = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
        with torch.no_grad():
            once = program.sample(model, u=u, y=y)
        layers = [m for m in model.modules() if isinstance(m, project.model.WeightNormed)]
        assert len(normed) == len(layers) and all(layer.kept is None for layer in layers)
        monkeypatch.setattr(project.model.WeightNormed, "kept", property(lambda _: None, lambda _, value: None))
        with torch.no_grad():
            assert torch.equal(program.sample(model, u=u, y=y), once)
        assert len(normed) > 2 * len(layers)
