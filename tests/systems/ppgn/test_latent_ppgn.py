"""PPGN: steps on the code of an autoencoder, written out by PyTorch's gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ["networks.observer.width=4", "sampler.steps=3"]


def steps(nets: dict[str, Any], sampler: Any, z: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Equation 11 of the paper, of one sample after the other."""
    made = []
    for i in range(len(z)):
        h = sampler.start * z[i : i + 1]
        for e in noise[:, i : i + 1]:
            h = h.detach().requires_grad_()
            log_p = F.log_softmax(nets["observer"](nets["main"].decode(h)), dim=1)[0, y[i]]
            (slope,) = torch.autograd.grad(log_p, h)
            with torch.no_grad():
                reconstructed = nets["main"].encode(nets["main"].decode(h))[:, : h.shape[1]]
                h = h + sampler.prior * (reconstructed - h) + sampler.class_step * slope + sampler.noise * e
        made.append(nets["main"].decode(h.detach()))
    return torch.cat(made)


@pytest.mark.parametrize("own", [["prior=0.3", "noise=0.2", "start=0.5"], ["prior=0", "noise=0"]])
def test_the_steps_are_the_papers(own: list[str], tmp_path: Path) -> None:
    """By the oracle and the emitted sampler. Gradients are small, so the step along them is large."""
    spec: Any = load_spec("digits_ppgn", None, [*SMALL, "sampler.class_step=20000", *(f"sampler.{s}" for s in own)])
    lowered, rng = lower(spec), np.random.default_rng(0)
    weights = weights_of(lowered, 0.2, rng)
    weights |= {path: np.abs(a) + 0.5 for path, a in weights.items() if path.endswith("running_var")}
    given = {"z": rng.standard_normal((2, 4, 4, 4)), "y": np.array([3, 8])}
    given["noise"] = rng.standard_normal((3, 2, 4, 4, 4))
    program = lowered.programs[0]
    operands = [given[value.name] for value in lowered.module.entry(program.entry).inputs]
    (found,) = Interpreter(lowered.module, weights).run(program.entry, *operands)
    with emitted(lowered, spec, tmp_path / "project") as project:
        nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
        for name, net in nets.items():
            held = {k: np.asarray(v) for k, v in net.state_dict().items()}
            net.load_state_dict({k: torch.tensor(weights.get(f"{name}.{k}", v)) for k, v in held.items()})
        wanted = steps(nets, spec.sampler, *(torch.tensor(given[name]) for name in ("z", "y", "noise")))
        sample = project.sampler.PROGRAMS["sample"][3]
        ours = sample.sample(*(nets[name] for name in sample.networks), *map(torch.tensor, operands))
    np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.detach().numpy(), wanted.detach().numpy(), rtol=1e-7, atol=1e-9)
    start = nets["main"].decode(spec.sampler.start * torch.tensor(given["z"])).detach().numpy()
    assert np.abs(found - start).max() > 1e-3, "the steps move it"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("networks.main.bottleneck={kind: codebook, size: 8, channels: 4}", "moves codes of real numbers"),
        ("conditioning.class={kind: label, encoding: one_hot, dropout: 0}", "requests do not have one"),
        ("networks.observer.pretrained=null", "is not frozen"),
    ],
)
def test_what_does_not_fit_is_refused(override: str, words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        load_spec("digits_ppgn", None, [*SMALL, override])
