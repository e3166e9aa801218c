"""A codebook whose rows average latents: passes of training against taming transformers' rule, in plain numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from emitted import emitted

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SPEC = """
latentc: 1
name: tiny-averages
data: {kind: npz, path: train.npz, shape: [3, 8, 8]}
backbone:
  kind: autoencoder
  width: 8
  multipliers: [1, 2]
  blocks: 1
  groups: 4
  bottleneck: {kind: codebook, size: 6, channels: 4, decay: 0.8, smoothing: 1e-3, commitment: 0.3}
objective: {kind: autoencoding}
sampler: {kind: autoencode}
train: {steps: 2, batch_size: 2, optimizer: {kind: adam}}
"""


def test_rows_follow_the_latents_that_chose_them(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "spec.yaml"))
    lowered = lower(spec)
    torch.manual_seed(0)
    with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
        model = project.model.NETWORKS["main"]().train()
        table, counts = model.codebook.sums.numpy().astype(float), np.zeros(6)
        sums = table.copy()
        for _ in range(3):
            x = torch.randn(2, 3, 8, 8)
            z = model.quant_conv(model.encoder(x)).numpy().transpose(0, 2, 3, 1).reshape(-1, 4)
            _, penalty = model.regularized(x)
            index = ((z[:, None] - table[None]) ** 2).sum(-1).argmin(1)
            wanted = 0.3 * ((z - table[index]) ** 2).reshape(2, -1).mean(1)
            np.testing.assert_allclose(penalty.numpy(), wanted, rtol=1e-4)
            one = np.eye(6)[index]
            counts = 0.8 * counts + 0.2 * one.sum(0)
            sums = 0.8 * sums + 0.2 * one.T @ z
            smoothed = (counts + 1e-3) / (counts.sum() + 6e-3) * counts.sum()
            table = sums / smoothed[:, None]
        before = model.eval().codebook.sums.clone()
        made = model.regularized(x)[0].numpy()
        assert torch.equal(model.codebook.sums, before)
        own = {f"main.{name}": v.numpy() for name, v in model.state_dict().items()}
        oracle = Interpreter(lowered.module, {n: a.astype(float) for n, a in own.items()})
        (tokens,) = oracle.run("main.encode", x.numpy().astype(float), prefix="main")
        z = model.quant_conv(model.encoder(x)).numpy().transpose(0, 2, 3, 1).reshape(-1, 4)
        assert tokens.shape == (2, 16)
        assert np.array_equal(tokens.reshape(-1), ((z[:, None] - table[None]) ** 2).sum(-1).argmin(1))
        (again,) = oracle.run("main.decode", tokens, prefix="main")
        np.testing.assert_allclose(again, made, rtol=1e-3, atol=1e-4)


def test_averages_have_no_fixed_length(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    with pytest.raises(DiagnosticError, match="rows that average latents have no fixed length"):
        load_spec(str(tmp_path / "spec.yaml"), overrides=["backbone.bottleneck.normalize=true"])
