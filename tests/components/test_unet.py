"""U-Nets of specs: what fits together, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emitted import emitted
from pydantic import ValidationError
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.components import OneOf
from latentc.diagnostics import DiagnosticError
from latentc.emit import model_source
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = [
    "data={kind: digits}",
    "conditioning.time.frequencies=16",
    "backbone.width=32",
    "backbone.multipliers=[1, 2]",
    "backbone.blocks=1",
    "backbone.attention=[1]",
    "backbone.block.head_channels=16",
]


def test_a_skip_whose_channels_do_not_fit() -> None:
    """Level 0 goes up with its 32 channels and a skip of 16 from the stem: 48 channels in 32 groups."""
    with pytest.raises(DiagnosticError) as refused:
        load_spec("adm", None, [*SMALL, "backbone.stem=0.5"])
    assert "32 groups do not divide the 48 channels of level 0 and a skip" in str(refused.value)


def test_channels_that_the_norm_of_a_transformer_does_not_fit() -> None:
    """Its 32 groups may be of one channel each, those of the blocks have four at least: 48 channels in 12 groups."""
    sizes = ["width=24", "multipliers=[1, 2]", "attention=[]", "block.group_size=4", "block.head_channels=8"]
    with pytest.raises(DiagnosticError, match="transformer's 32 groups do not divide the 48 channels of level 1"):
        load_spec("rcg_ldm", None, [f"networks.main.{size}" for size in sizes])


def test_the_middle_block_attends_even_if_no_level_does() -> None:
    with pytest.raises(
        DiagnosticError, match=r"E0305.*a head of attention has more channels than level 1, which has 64, where the mid"
    ):
        load_spec("adm", None, [*SMALL, "backbone.attention=[]", "backbone.block.head_channels=128"])


def test_the_stem_and_the_features_of_the_time_have_sizes_of_their_own() -> None:
    low = lower(load_spec("adm", None, [*SMALL, "backbone.stem=2", "backbone.frequencies=8"]))
    params = parameters(low.module, low.networks["main"].main.function)
    assert params["in_conv.weight"].type.shape[0] == 64
    assert tuple(params["embedder.fc1.weight"].type.shape) == (128, 8)
    assert "stem" not in model_source(low)


@pytest.mark.parametrize("kind", ["mp_unet", "unet", "unet_encoder"])
def test_two_features_of_the_time_are_too_few(kind: str) -> None:
    """Frequencies with both endpoints need four; a spec may choose them."""
    with pytest.raises(ValidationError, match="greater than 2"):
        OneOf("networks").choices()[kind].example(frequencies=2)


@pytest.mark.parametrize("pool", ["mean", "all_means", "all_means_normalized"])
def test_what_a_classifier_pools(pool: str, tmp_path: Path) -> None:
    """Its head, in PyTorch, of what the emitted blocks return."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    spec = load_spec(
        "adm_classifier", None, [*SMALL, "backbone.width=16", "backbone.block.groups=4", f"backbone.pool={pool}"]
    )
    lowered = lower(spec)
    main, rng = lowered.networks["main"], np.random.default_rng(0)
    weights = random_weights(network_params(lowered, main), rng, 0.3)
    x, t = rng.standard_normal((2, 1, 8, 8)), np.array([3.0, 700.0])
    (ours,) = Interpreter(lowered.module, {f"main.{n}": a for n, a in weights.items()}).run(
        main.main.function, x, t, prefix="main"
    )
    w, seen = {n: torch.from_numpy(np.float32(a)) for n, a in weights.items()}, list[Any]()
    with emitted(lowered, spec, tmp_path) as project, torch.no_grad():
        network = project.model.NETWORKS["main"]()
        network.load_state_dict(w)
        children = dict(network.named_modules())
        for name in ("in_conv", "enc.0.0", "down.0", "enc.1.0", "mid_1"):
            children[name].register_forward_hook(lambda module, given, out: seen.append(out))
        made = network(torch.from_numpy(np.float32(x)), torch.from_numpy(np.float32(t)))

    def linear(name: str, h: Any) -> Any:
        return F.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, h: Any) -> Any:
        return F.silu(F.group_norm(h, 4, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5))

    h = linear("head.fc1", torch.cat([v.mean((2, 3)) for v in seen], 1)) if pool != "mean" else None
    wanted = {
        "mean": lambda: linear("out", norm("out_norm", seen[-1]).mean((2, 3))),
        "all_means": lambda: linear("head.fc2", F.relu(h)),
        "all_means_normalized": lambda: linear("head.out", norm("head.norm", h)),
    }[pool]()
    assert len(seen) == 5
    for found in (torch.from_numpy(np.float32(ours)), made):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
