"""The emitted mixture of experts in training: sparse, and its gradients those of the dense formula and the balance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_data import SIZES, error, load
from random_weights import random_weights
from torch_module import loaded, model_text

from latentc import api
from latentc.checkpoint import arrays, network_params, network_weights
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors


def mixture(**sizes: int) -> torch.nn.Module:
    text = model_text(lower(load_spec("dit_moe", None, SIZES["dit_moe"])))
    torch.manual_seed(0)
    return loaded(text)["MixtureOfExperts"](**sizes).double()


def dense(moe: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the mixture gives, its balance loss), every expert for every token."""
    scores = F.softmax(moe.gate(x), -1)
    best, chosen = scores.topk(2)
    hot = F.one_hot(chosen, 4).double()
    gates = (hot * best[..., None]).sum(2)
    h = F.silu(torch.einsum("btd,efd->btef", x, moe.w1)) * torch.einsum("btd,efd->btef", x, moe.w3)
    y = torch.einsum("btef,edf,bte->btd", h, moe.w2, gates) + moe.shared(x)
    return y, 0.01 * 4 * (hot.mean((0, 1, 2)) * scores.mean((0, 1))).sum()


def test_gradients_are_those_of_the_loss_and_the_balance() -> None:
    moe = mixture(dim=8, hidden=16, experts=4, per_token=2, shared=12)
    x = torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(3, 7, 8, dtype=torch.float64)
    wrt = [x, *moe.parameters()]
    y = moe(x)
    found = torch.autograd.grad((y * direction).sum(), wrt)
    want, balance = dense(moe, x)
    assert torch.allclose(y, want, rtol=1e-9, atol=1e-12)
    for got, wanted in zip(found, torch.autograd.grad((want * direction).sum() + balance, wrt), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)
    without = torch.autograd.grad((dense(moe, x)[0] * direction).sum(), moe.gate.weight)[0]
    assert not torch.allclose(
        found[1 + [n for n, _ in moe.named_parameters()].index("gate.weight")], without, atol=1e-5
    )


def test_a_guide_adds_no_balance_to_gradients() -> None:
    """A network that guides a sampler is not in training: the gradient by its input is that of the result alone."""
    moe = mixture(dim=8, hidden=16, experts=4, per_token=2, shared=12).eval()
    x = torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    found, want = (torch.autograd.grad(y.square().sum(), x)[0] for y in (moe(x), dense(moe, x)[0]))
    assert torch.allclose(found, want, rtol=1e-9, atol=1e-12)


def test_an_expert_that_nobody_wants_is_no_trouble() -> None:
    moe = mixture(dim=8, hidden=16, experts=4, per_token=2, shared=12)
    with torch.no_grad():
        moe.gate.weight.zero_()  # all scores equal: the first two experts have every token
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    moe(x).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in moe.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(moe.float()(x.float()), dense(moe.double(), x)[0].float(), atol=0.05)


def test_training_forward_is_the_authors(tmp_path: object) -> None:
    numbers = load("dit_moe.train")
    spec = load_spec("dit_moe", None, SIZES["dit_moe"])
    lowered = lower(spec)
    file = f"{tmp_path}/w.safetensors"
    write_safetensors(file, {name: Array(a) for name, a in numbers.weights.items()})
    own = arrays(network_weights(spec, lowered, file, "official")["main"])
    model = loaded(model_text(lowered))["build"]().train()
    kept = model.state_dict()
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in own.items() if name in kept})
    x, t, y = (torch.from_numpy(numbers.inputs[name]) for name in ("x", "t", "y"))
    assert error(model(x, t.float(), y).detach().numpy(), numbers.outputs["out"]) < 1e-5


@pytest.mark.parametrize("system", ["dit_moe", "diffmoe"])
def test_what_layers_add_to_gradients_is_a_metric_of_training(system: str, tmp_path: Path) -> None:
    """The balance of experts, the capacity of a token pool: alike by the oracle and by PyTorch."""
    options = {"overrides": [*SIZES["dit_moe"], "sampler=null"] if system == "dit_moe" else POOL}
    spec = load_spec(system, **options)
    lowered, rng = lower(spec), np.random.default_rng(0)
    own = network_params(lowered, lowered.networks["main"])
    drawn = random_weights(own, rng, 0.2)
    write_safetensors(tmp_path / "w.safetensors", {name: Array(np.float32(a)) for name, a in drawn.items()})
    kinds = {"f32": lambda shape: rng.standard_normal(shape), "i64": lambda shape: rng.integers(0, 3, shape)}
    inputs = {
        v.name: kinds[v.type.dtype]([2 if not isinstance(d, int) else d for d in v.type.shape])
        for v in lowered.module.entry("loss").inputs
    }
    found = {
        (backend, training): api.loss(system, tmp_path / "w.safetensors", inputs, backend, training=training, **options)
        for backend in ("oracle", "torch")
        for training in (False, True)
    }
    assert all(("auxiliary" in metrics) == training for (_, training), metrics in found.items())
    by_oracle, by_torch = (float(found[backend, True]["auxiliary"]) for backend in ("oracle", "torch"))
    assert by_oracle > 0 and abs(by_torch - by_oracle) < 1e-5 * by_oracle


POOL = ["data={kind: digits}", "backbone.width=8", "backbone.depth=2", "backbone.patch=2", "sampler.guidance=null"]
POOL += ["backbone.block.mixer.heads=2", "backbone.interleaved={kind: token_pool, experts: 3, ratio: 1}"]


def token_pool() -> torch.nn.Module:
    text = model_text(lower(load_spec("diffmoe", None, POOL)))
    torch.manual_seed(0)
    return loaded(text)["TokenPool"](dim=8, hidden=8, experts=3).double()


def test_a_pool_chooses_and_learns_its_capacity_as_the_authors_code_does() -> None:
    """In training each expert takes the best third of all tokens; the predictor learns which, from detached tokens."""
    pool = token_pool().train()
    with torch.no_grad():
        pool.threshold.fill_(0.4)
    x = torch.randn(2, 6, 8, dtype=torch.float64, requires_grad=True)
    y = pool(x)
    tokens = x.detach().flatten(0, 1)
    scores = F.softmax(pool.gate(tokens), -1)
    logits = pool.capacity.fc2(F.silu(pool.capacity.fc1(tokens)))
    want, chosen = torch.zeros_like(tokens), torch.zeros(12, 3, dtype=torch.float64)
    for e in range(3):
        best = scores[:, e].topk(4).indices
        h = F.gelu(F.linear(tokens[best], pool.w1[e], pool.b1[e]), approximate="tanh")
        want[best] += scores[best, e, None] * F.linear(h, pool.w2[e], pool.b2[e])
        chosen[best, e] = 1
    assert torch.allclose(y.flatten(0, 1), want, rtol=1e-9, atol=1e-12)
    least = logits.sigmoid().topk(4, dim=0).values[-1]
    assert torch.allclose(pool.threshold.double(), 0.95 * torch.tensor(0.4).double() + 0.05 * least, atol=1e-6)
    loss = 0.01 * F.binary_cross_entropy_with_logits(logits, chosen)
    wrt = list(pool.capacity.parameters())
    for got, wanted in zip(torch.autograd.grad(y.sum(), wrt), torch.autograd.grad(loss, wrt), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_a_pool_takes_what_exceeds_the_thresholds() -> None:
    pool = token_pool().eval()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    chances = pool.capacity.fc2(F.silu(pool.capacity.fc1(x))).sigmoid().flatten(0, 1)
    with torch.no_grad():
        pool.threshold.copy_(torch.stack([chances[:, 0].median(), chances[:, 1].max(), chances[:, 2].min() - 1]))
    scores = F.softmax(pool.gate(x), -1).flatten(0, 1)
    counts = (chances > pool.threshold).sum(0)
    assert counts.tolist() == [6, 0, 12]
    want = torch.zeros(12, 8, dtype=torch.float64)
    for e, count in enumerate(counts):
        best = scores[:, e].topk(count).indices
        h = F.gelu(F.linear(x.flatten(0, 1)[best], pool.w1[e], pool.b1[e]), approximate="tanh")
        want[best] += scores[best, e, None] * F.linear(h, pool.w2[e], pool.b2[e])
    assert torch.allclose(pool(x).flatten(0, 1), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["token_pool", "expert_choice"])
def test_a_capacity_falls_in_training_as_scheduled(kind: str) -> None:
    """All experts per token up to pass `hold`, then linearly fewer, from pass `until` on as many as configured."""
    chosen = f"{{kind: {kind}, experts: 4, ratio: 1, schedule: {{hold: 1, until: 4}}}}"
    text = model_text(lower(load_spec("diffmoe", None, [*POOL[:-1], f"backbone.interleaved={chosen}"])))
    experts = loaded(text)[kind.title().replace("_", "")](dim=8, hidden=8, experts=4).train()
    with torch.no_grad():
        experts.w2.zero_()
        experts.b2.copy_(torch.eye(4, 8))  # expert e gives its gate as element e
    x = torch.randn(2, 8, 8)  # another number of tokens than the spec's
    assert [int((experts(x) > 0).sum()) / 16 for _ in range(6)] == [4, 4, 3, 2, 1, 1]
    experts.eval()(x)
    assert experts.state_dict()["passes"].item() == 6
