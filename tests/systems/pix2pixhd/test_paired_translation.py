"""pix2pixHD beside its recordings: edges of instances, pooling, samples without noise, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from parity_data import load

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.spec import load_spec
from latentc.systems.pix2pixhd.instance_edges import InstanceEdges
from latentc.systems.pix2pixhd.parts import halved

TINY = ("networks.main.width=4", "networks.main.blocks=1", "networks.discriminator.width=4")


def test_edges_are_those_of_the_authors() -> None:
    """Of the recorded instances: the last channel of what their code gives its networks."""
    numbers = load("pix2pixhd.loss")
    instances = numbers.inputs["inst"][:, 0]
    mb = ModuleBuilder()
    b = mb.function("edges")
    of = b.input("instances", i64(B, *instances.shape[1:]))
    b.output(InstanceEdges(kind="instance_edges").map(b, "instances", (of,), {}, instances.shape[1]))
    b.finish("")
    (found,) = Interpreter(mb.finish()).run("edges", instances)
    assert np.array_equal(found, numbers.outputs["out.encoded"][:, -1:])


@pytest.mark.parametrize("sides", [(8, 6), (5, 7)])
def test_maps_are_halved_as_by_pytorch(sides: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, *sides))
    mb = ModuleBuilder()
    b = mb.function("halved")
    b.output(halved(b, b.input("x", f32(B, 3, *sides))))
    b.finish("")
    (found,) = Interpreter(mb.finish()).run("halved", x)
    wanted = F.avg_pool2d(torch.tensor(x), 3, stride=2, padding=1, count_include_pad=False)
    assert np.allclose(found, wanted.numpy(), rtol=1e-12)


def test_a_sample_follows_from_its_map(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("digits_pix2pixhd", tmp_path / "b", TINY), "cpu")
    maps = np.random.default_rng(0).uniform(-1, 1, (3, 1, 4, 4)).astype(np.float32)
    one, other = (pipe.sample(conditions={"map": maps}, seeds=seed) for seed in (0, 100))
    assert one.shape == (3, 1, 8, 8) and np.array_equal(one, other)
    assert np.abs(one[0] - one[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["networks.main.depth=3"], "cannot be halved 3 times, to at least 2"),
        (["networks.discriminator.scales=4"], "cannot be halved 3 times, to at least 2"),
        (["networks.perceptual={kind: vgg19}"], "a vgg19 sees images \\[3, H, W\\]"),
        (["networks.encoder={kind: instance_encoder, depth: 1}"], "`instances` is no map of instances"),
        (["networks.main.conditions=[]"], "a global_generator makes samples of maps, but takes none"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_pix2pixhd", overrides=options)
