"""Noise of a router of experts in training: where it enters, as in Uni-Perceiver-MoE, and how it is distributed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch_module import loaded, model_text

from latentc.lower import lower
from latentc.spec import load_spec

TINY = ["data={kind: digits}", "backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2"]
TINY += ["sampler.guidance.channels=null"]
NOISY = "{kind: routed_attention, heads: 2, routed: {experts: 4, chosen: 2, noise: %s, noise_std: 2.0}}"


@pytest.mark.parametrize("noise", ["normal", "gumbel"])
def test_noise_of_the_router_is_that_of_the_authors(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal noise enters selection and scores, Gumbel noise the selection only; in training alone."""
    experts = "backbone.block.feed_forward={kind: attribute_experts, experts: 4, chosen: 2, ratio: 2, "
    lowered = lower(load_spec("dit", None, [*TINY, f"{experts}noise: {noise}, noise_std: 2.0}}"]))
    file = loaded(model_text(lowered))
    torch.manual_seed(0)
    model, drawn = file["NETWORKS"]["main"](), torch.randn(3, 4)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    scales = []

    def noisy(x: torch.Tensor, scale: float, training: bool) -> torch.Tensor:
        scales.append(scale)
        return x + 3 * drawn if training else x

    monkeypatch.setitem(file, f"with_{noise}_noise", noisy)
    seen: dict[str, torch.Tensor] = {}
    feed_forward = next(m for m in model.modules() if type(m).__name__ == "AttributeExperts")
    feed_forward.register_forward_hook(lambda module, ins, out: seen.update(x=ins[0], c=ins[1], out=out))
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([5.0, 9.0, 2.0]), torch.tensor([1, 2, 3])
    w = dict(feed_forward.named_parameters())
    for training in (True, False):
        model.train(training)(x, t, y)
        router = feed_forward.router
        logits = router.gate(router.norm(router.transform(seen["c"])))
        moved = logits + 3 * drawn * training
        chosen = moved.topk(2).indices
        gates = (moved if noise == "normal" else logits).softmax(-1).gather(1, chosen)
        gates = gates / gates.sum(1, keepdim=True)
        for row in range(3):
            h = seen["x"][row]
            for part in ("fc1", "fc2"):
                weight, bias = (w[f"{part}.{kind}"][chosen[row]] for kind in ("weight", "bias"))
                h = F.linear(h, torch.tensordot(gates[row], weight, 1), torch.tensordot(gates[row], bias, 1))
                h = F.gelu(h) if part == "fc1" else h
            torch.testing.assert_close(seen["out"][row], h, rtol=1e-4, atol=1e-4)
    assert scales == [2.0 / 4 if noise == "normal" else 2.0] * 2


def test_noise_is_standard() -> None:
    """The first two moments of the noise that training draws."""
    lowered = lower(load_spec("dit", None, [*TINY, f"backbone.block.mixer={NOISY % 'normal'}"]))
    normal = loaded(model_text(lowered))["with_normal_noise"]
    lowered = lower(load_spec("dit", None, [*TINY, f"backbone.block.mixer={NOISY % 'gumbel'}"]))
    gumbel = loaded(model_text(lowered))["with_gumbel_noise"]
    torch.manual_seed(0)
    x = torch.ones(100_000)
    for draw, mean, std in ((normal, 0.0, 1.0), (gumbel, 0.5772, math.pi / math.sqrt(6))):
        assert draw(x, 2.0, False) is x
        moved = draw(x, 2.0, True)
        assert abs(moved.mean() - 1 - 2 * mean) < 0.03 and abs(moved.std() - 2 * std) < 0.03


def test_jitter_of_what_the_router_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform factors between 1 - jitter and 1 + jitter, after the router's norm, in training alone."""
    experts = "backbone.block.feed_forward={kind: attribute_experts, experts: 4, ratio: 2, jitter: 0.25}"
    file = loaded(model_text(lower(load_spec("dit", None, [*TINY, experts]))))
    torch.manual_seed(0)
    x, jittered = torch.full((100_000,), 3.0), file["with_relative_noise"]
    assert jittered(x, 0.25, False) is x
    factors = jittered(x, 0.25, True) / 3
    assert 0.75 <= factors.min() < 0.751 and 1.249 < factors.max() <= 1.25 and abs(factors.mean() - 1) < 0.002
    model, seen = file["NETWORKS"]["main"](), {}
    monkeypatch.setitem(file, "with_relative_noise", lambda x, scale, training: x * (1 + scale * training))
    router = next(m for m in model.modules() if type(m).__name__ == "AttributeExperts").router
    router.norm.register_forward_hook(lambda module, ins, out: seen.update(out=out))
    router.gate.register_forward_pre_hook(lambda module, ins: seen.update(scored=ins[0]))
    for training in (True, False):
        model.train(training)(torch.randn(3, 1, 8, 8), torch.tensor([5.0, 9.0, 2.0]), torch.tensor([1, 2, 3]))
        torch.testing.assert_close(seen["scored"], seen["out"] * (1.25 if training else 1))
