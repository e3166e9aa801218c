"""Steps of a diffusion that training draws by their past losses."""

from __future__ import annotations

import torch
from tiny_systems import SYSTEMS
from torch_module import loaded, model_text

from latentc.lower import lower
from latentc.spec import load_spec

CDCD = SYSTEMS["cdcd"]


def test_steps_are_drawn_by_their_losses() -> None:
    """As the authors' `sample_time` and `_train_loss`: uniformly until each step was drawn more than 10 times."""
    lowered = lower(load_spec(CDCD.spec, CDCD.variant, CDCD.sizes))
    model = loaded(model_text(lowered))["build"]().train()
    steps, u = len(model.loss_history), torch.linspace(0, 0.999, 7)
    t, weight = model.draw_steps(u)
    assert torch.equal(t, (u * steps).long()) and torch.allclose(weight, torch.ones(7))
    kept = torch.zeros(steps)
    for i in range(11 * steps):
        loss = torch.tensor([1.0 + i % steps])
        assert model.note_losses(loss, torch.tensor([i % steps])) is loss
        kept[i % steps] = 0.9 * kept[i % steps] + 0.1 * loss.item() ** 2
    assert torch.allclose(model.loss_history, kept) and (model.loss_counts == 11).all()
    root = torch.sqrt(kept + 1e-10) + 1e-4
    root[0] = root[1]
    p = root / root.sum()
    t, weight = model.draw_steps(u)
    assert torch.equal(t, torch.searchsorted(p.cumsum(0), u, right=True))
    assert torch.allclose(weight, 1 / (steps * p[t]))
    model.eval().note_losses(torch.ones(1), torch.zeros(1, dtype=torch.long))
    assert (model.loss_counts == 11).all()
