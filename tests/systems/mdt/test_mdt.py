"""MDTv2's sizes that do not fit are refused, its tables start as sines and cosines, and Adan takes the steps of its
paper."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from latentc.diagnostics import DiagnosticError
from latentc.emit.optimizers import training_files
from latentc.spec import load_spec
from latentc.spec.sections import Train

TINY = ["backbone.width=16", "backbone.depth=3", "backbone.decoder_depth=1", "backbone.block.mixer.heads=2"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["backbone.depth=4"], "the encoder has 3 of the 4 blocks"),
        (["backbone.depth=1", "backbone.decoder_depth=2"], "the encoder has -1 of the 1 blocks"),
        (["backbone.mask_ratio=0.8"], "must be below 1"),
        (["backbone.width=18"], "divisible by 4"),
        (["backbone.block.mixer.causal=true"], "no order"),
        (["backbone.block.mixer={kind: attention, heads: 2}"], "knows their places"),
        (
            [
                "backbone={kind: patch_transformer, width: 16, depth: 1, patch: 2, positions: {kind: sincos_2d}, "
                "block: {mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
                "condition: {kind: adaln_zero}}}"
            ],
            "predicts all of a noisy sample from some of its patches",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("mdt", overrides=[*TINY, *overrides])


def test_adan_takes_the_steps_of_its_paper() -> None:
    """Algorithm 1 of Xie et al. 2022 with its bias corrections, written out for three gradients."""
    given = {"kind": "adan", "lr": 0.1, "betas": [0.9, 0.8, 0.7], "weight_decay": 0.5}
    module = ModuleType("optimizers")
    files = training_files(Train.model_validate({"optimizers": {"main": given}}))
    exec(files["latentc_support/optimizers.py"], module.__dict__)
    net = nn.Linear(2, 2, bias=False)
    made = module.make_optimizer(net, {**Train.model_validate({"optimizer": given}).optimizer.model_dump(mode="json")})
    theta = net.weight.detach().double().numpy().copy()
    m, v, n, before = (np.zeros((2, 2)) for _ in range(4))
    for k, seed in enumerate((3, 4, 5), 1):
        g = np.random.default_rng(seed).standard_normal((2, 2))
        net.weight.grad = torch.from_numpy(g).float()
        made.step()
        change = g - before if k > 1 else 0 * g
        m, v = 0.9 * m + 0.1 * g, 0.8 * v + 0.2 * change
        n = 0.7 * n + 0.3 * (g + 0.8 * change) ** 2
        size = np.sqrt(n / (1 - 0.7**k)) + 1e-8
        theta = (theta - 0.1 * (m / (1 - 0.9**k) + 0.8 * v / (1 - 0.8**k)) / size) / (1 + 0.1 * 0.5)
        before = g
    np.testing.assert_allclose(net.weight.detach().numpy(), theta, rtol=1e-5)
