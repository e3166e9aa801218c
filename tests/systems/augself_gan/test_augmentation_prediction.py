"""AugSelf-GAN: augmentations that gradients pass, and a discriminator that predicts their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from parity_data import error, load

from latentc.checkpoint import arrays, network_weights
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SIZES = [
    "networks.main.width=8",
    "networks.main.latent_dim=16",
    "networks.discriminator.width=8",
    "objective.terms=[hinge, {kind: augmentation, weight: 2, generator_weight: 0.5}]",
    "objective.augment=[{kind: color, saturation: 0.8, contrast: 0.5}, {kind: translation, ratio: 0.25}, "
    "{kind: cutout, ratio: 0.75}]",
]
AUTHORS = {"main": "G.", "discriminator": "D."}
GRADIENTS = {  # by their names: ours
    "main": {
        "linear.weight": "linear.weight",
        "blocks.1.0.bn1.gain.weight": "blocks.1.bn1.gain.weight",
        "output_layer.2.weight": "output.weight",
    },
    "discriminator": {
        "out_augself.color.weight": "augmented.color.weight",
        "out_augself.cutout.bias": "augmented.cutout.bias",
        "blocks.0.0.conv1.weight": "blocks.0.conv1.weight",
        "linear.weight": "linear.weight",
    },
}


def test_the_authors_losses_and_their_gradients(tmp_path: Path) -> None:
    """Both players' losses, by the oracle and the emitted project, and the project's gradients by some weights."""
    numbers, spec = load("augself.game"), load_spec("augself_gan", None, SIZES)
    low, files = lower(spec), []
    for network, prefix in AUTHORS.items():
        own = {n.removeprefix(prefix): Array(a) for n, a in numbers.weights.items() if n.startswith(prefix)}
        write_safetensors(tmp_path / f"{network}.safetensors", own)
        files.append(f"{network}={tmp_path / network}.safetensors")
    weights = {name: arrays(found) for name, found in network_weights(spec, low, files, "official").items()}
    whole = {f"{name}.{path}": a for name, found in weights.items() for path, a in found.items()}
    with emitted(low, spec, tmp_path / "project") as project:
        nets: dict[str, Any] = {}
        for name, build in project.model.NETWORKS.items():
            nets[name] = build().eval()
            nets[name].load_state_dict({n: torch.tensor(np.array(a)) for n, a in weights[name].items()})
        for update in low.updates:
            player = update.networks[0]
            prefix = "g." if player == "main" else "d."  # of what each update draws
            given = {n.removeprefix(prefix): a for n, a in numbers.inputs.items()}
            names = [*update.batch, *(draw.name for draw in update.draws)]
            wanted = numbers.outputs["out.generator" if player == "main" else "out.discriminator"]
            oracle = Interpreter(low.module, whole).run(update.loss, *(given[n] for n in names))
            assert error(np.array(oracle[:3]), wanted) < 1e-6
            made = next(u for u in project.objective.UPDATES if u.trained == update.networks)
            found = made.loss(*(nets[n] for n in made.networks), **{n: torch.tensor(given[n]) for n in names})
            assert error(np.array([float(x.detach()) for x in found[:3]]), wanted) < 1e-5
            nets[player].zero_grad()
            found[0].backward()
            gradients = {n: p.grad for n, p in nets[player].named_parameters()}
            for theirs, name in GRADIENTS[player].items():
                recorded = numbers.outputs[f"out.gradient.{AUTHORS[player]}{theirs}"]
                assert error(gradients[name].numpy(), recorded) < 1e-5, name


def test_augmentations_without_prediction() -> None:
    """DiffAugment alone: the discriminator sees augmented images, and predicts nothing."""
    spec = load_spec("digits_biggan", None, ["objective.augment=[translation]"])
    low = lower(spec)
    assert [port.name for port in low.networks["discriminator"].methods["forward"].outputs] == ["score"]
    drawn = [[draw.name for draw in update.draws] for update in low.updates]
    shifts = [[f"{axis}_shift_of_{side}" for axis in ("row", "column")] for side in ("data", "samples")]
    assert drawn == [["z", "labels", *shifts[0], *shifts[1]], ["z", "labels", *shifts[1]]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.terms=[hinge, augmentation]"], "add `objective.augment"),
        (["objective.augment=[color, {kind: color, contrast: 0.5}]"], "is listed twice"),
        (
            [
                "objective={kind: adversarial, terms: [hinge, augmentation], augment: [color]}",
                "networks.discriminator={kind: style_discriminator, channel_base: 64, channel_max: 8}",
            ],
            "reads the output `features` of network `discriminator`",
        ),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_biggan", None, overrides)
