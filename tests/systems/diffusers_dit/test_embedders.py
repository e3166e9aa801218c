"""Every block embeds time and class itself, before the loop of a sampler; tests/interchange compares with diffusers."""

from __future__ import annotations

import numpy as np
from tiny_systems import SYSTEMS

from latentc.emit.model import model_source
from latentc.ir.core import parameters
from latentc.ir.report import weights_read
from latentc.lower import lower
from latentc.passes.hoist import hoist
from latentc.pipeline import optimised
from latentc.spec import load_spec

TINY = SYSTEMS["diffusers_dit"]


def test_steps_read_no_embedder() -> None:
    """The embedders of all blocks are read once before the loop, with the maps that make modulations of them."""
    spec = load_spec(TINY.spec, None, [*TINY.sizes, "backbone.width=32", "sampler.steps=10"])
    lowered = lower(spec)
    entry, before = lowered.programs[0].entry, optimised(lowered, spec, "expand_guidance").module
    old, new = weights_read(before, entry), weights_read(hoist(before), entry)
    early = {p: v for p, v in parameters(before, entry).items() if "adaLN" in p or "t_embedder" in p}
    assert len([path for path in early if "embedders.1" in path]) == 4
    moved = sum(4 * int(np.prod([int(n) for n in param.type.shape])) for param in early.values())
    assert old.loops[0].bytes - new.loops[0].bytes == moved


def test_the_emitted_network_has_a_list_of_embedders() -> None:
    text = model_source(lower(load_spec(TINY.spec, None, list(TINY.sizes))))
    assert "for embedder in self.embedders" in text
