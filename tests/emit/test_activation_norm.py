"""PatchGAN's activation norms: their start from the first batch, and the names of the authors' checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_module import loaded, model_text

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = [
    "data.shape=[3, 16, 16]",
    *(f"networks.main.{size}" for size in ("width=8", "multipliers=[1, 2]", "blocks=1", "groups=4", "attention=[]")),
    "networks.main.bottleneck={kind: codebook, size: 8, channels: 4}",
    "networks.discriminator={kind: patch_discriminator, width: 8, depth: 1, norm: activation}",
]


def test_the_first_batch_of_training_sets_shift_and_scale() -> None:
    model = loaded(model_text(lower(load_spec("vqgan_taming", None, SIZES))))["NETWORKS"]["discriminator"]()
    torch.manual_seed(0)
    for conv in (*model.convs, model.score):
        torch.nn.init.normal_(conv.weight, std=0.1)
    x, other = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16) * 2
    assert torch.equal(model.eval().norms[0].scale, torch.ones(1, 16, 1, 1)) and not model.norms[0].passes

    def before_norm(x: torch.Tensor) -> torch.Tensor:
        h = F.leaky_relu(model.convs[0](x), 0.2)
        return model.convs[1](h)  # type: ignore[no-any-return]

    with torch.no_grad():
        h = before_norm(x)
        mean, std = h.mean((0, 2, 3), keepdim=True), h.std((0, 2, 3), keepdim=True)
        wanted = [model.score(F.leaky_relu((before_norm(of) - mean) / std, 0.2)) for of in (x, other)]
        assert torch.allclose(model.train()(x), wanted[0], atol=1e-6)
        assert torch.allclose(model(other), wanted[1], atol=1e-5) and model.norms[0].passes == 2
        assert torch.allclose(model.eval()(other), wanted[1], atol=1e-5)
    model.train()(x).mean().backward()
    assert all(weight.grad is not None for weight in (model.norms[0].shift, model.norms[0].scale, model.convs[1].bias))


def test_names_of_the_authors(tmp_path: Path) -> None:
    """A sequence: convolution, then convolution, norm and activation, then the score."""
    torch.manual_seed(0)
    shapes = {"0.weight": (8, 3, 4, 4), "0.bias": (8,), "2.weight": (16, 8, 4, 4), "2.bias": (16,)}
    shapes |= {"3.loc": (1, 16, 1, 1), "3.scale": (1, 16, 1, 1), "5.weight": (1, 16, 4, 4), "5.bias": (1,)}
    own = {f"main.{name}": torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    torch.save(own | {"main.3.initialized": torch.tensor(1, dtype=torch.uint8)}, tmp_path / "d.pt")
    x = torch.randn(2, 3, 16, 16)
    w = {name.removeprefix("main."): array for name, array in own.items()}
    h = F.leaky_relu(F.conv2d(x, w["0.weight"], w["0.bias"], stride=2, padding=1), 0.2)
    h = (F.conv2d(h, w["2.weight"], w["2.bias"], padding=1) + w["3.loc"]) * w["3.scale"]
    wanted = F.conv2d(F.leaky_relu(h, 0.2), w["5.weight"], w["5.bias"], padding=1)
    options = {"overrides": SIZES, "names": "official", "network": "discriminator"}
    found = api.forward("vqgan_taming", tmp_path / "d.pt", {"x": x.numpy()}, "oracle", **options)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_weights_in_parts_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="`fsdp` splits weights"):
        load_spec("vqgan_taming", None, [*SIZES, "train.parallel=fsdp"])
