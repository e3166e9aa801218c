"""Every pass, alone and after others, on random modules: well formed, the same numbers, the same signatures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from ir_parse import module_from_text
from random_modules import Generator, results_of, weights_of

from latentc.ir.core import Module, only_entry, own_parameters
from latentc.ir.ops import OPS
from latentc.ir.text import text_from_module
from latentc.ir.verify import verify
from latentc.passes import split
from latentc.passes.cleanup import cleanup
from latentc.passes.decompose import decompose, decompose_attention, fold_heads
from latentc.passes.expand_guidance import expand_guidance
from latentc.passes.experts import expand_experts
from latentc.passes.fuse import RULES, fuse
from latentc.passes.heads import split_heads_late
from latentc.passes.hoist import hoist
from latentc.passes.inline import inline
from latentc.passes.precision import caches_in_half, precision
from latentc.passes.to_inference import to_inference

_COMPOSITES = {name for name, row in OPS.items() if row.decompose}
PASSES: dict[str, Callable[[Module], Module]] = {
    "cleanup": cleanup,
    "fuse for onnxruntime": lambda module: fuse(module, RULES["onnxruntime"]),
    "fuse for openvino": lambda module: fuse(module, RULES["openvino"]),
    "fuse for tensorrt": lambda module: fuse(module, RULES["tensorrt"]),
    "hoist": lambda module: hoist(module, 2),
    "hoist in chunks": lambda module: hoist(module, 2, limit=0),
    "experts": expand_experts,
    "heads": split_heads_late,
    "fold heads": fold_heads,
    "attention": decompose_attention,
    "decompose": lambda module: decompose(module, _COMPOSITES),
}
LAST: dict[str, Callable[[Module], Module]] = {
    "f32": lambda module: module,
    "fp16": lambda module: precision(module, "fp16"),
    "caches in bf16": lambda module: caches_in_half(module, "bf16"),
}


@lru_cache(maxsize=2)
def expected(module: Module) -> tuple[Any, Any]:
    """Weights for a module, and its results with them."""
    weights = weights_of(module)
    return weights, results_of(module, weights)


def assert_same(before: Module, after: Module, stage: str) -> Module:
    verify(after, stage)
    weights, want = expected(before)
    got = results_of(after, weights)
    for entry in after.entries:
        for p, q in zip(want[entry], got[entry], strict=True):
            assert p.shape == q.shape and np.allclose(p, q, rtol=1e-8, atol=1e-8)
    return after


def prepared(random: Random, guidance: bool = True) -> tuple[Module, Module]:
    """A random module, and the same at stage `expanded`."""
    module = Generator(random, size=random.choice([4, 8, 12]), guided=guidance).module()
    mode = random.choice(["batched", "sequential"])
    return module, expand_guidance(to_inference(module), mode)  # type: ignore[arg-type]


def starts(usual: int, all: int) -> Any:
    """Parametrizes by the first of a hundred seeds; those from `usual` on run with --exhaustive."""
    return pytest.mark.parametrize(
        "start", [pytest.param(n, marks=[pytest.mark.exhaustive] if n >= usual else []) for n in range(0, all, 100)]
    )


@starts(100, 400)
def test_text_and_what_comes_first(start: int) -> None:
    for seed in range(start, start + 100):
        module, expanded = prepared(Random(seed))
        text = text_from_module(module)
        again = verify(module_from_text(text))
        assert text_from_module(again) == text
        for after, stage in ((again, "train"), (cleanup(module), "train"), (expanded, "expanded")):
            assert_same(module, after, stage)


@starts(200, 1000)
def test_passes_in_any_order(start: int) -> None:
    for seed in range(start, start + 100):
        random = Random(seed)
        _, before = prepared(random, random.random() < 0.5)
        some = random.sample(sorted(PASSES), random.randint(0, 4))
        names = [*some, random.choice(["hoist", "hoist in chunks"]), random.choice(sorted(LAST))]
        module = before
        with patch.object(split, "LEAST_GAIN", random.choice([-(10**12), 0])):  # moves all it can, or what pays
            for name in names:
                module = assert_same(before, {**PASSES, **LAST}[name](module), "expanded")
        for entry in module.entries:
            old, new = before.entry(entry), module.entry(entry)
            assert [v.type for v in (*old.inputs, *old.outputs)] == [v.type for v in (*new.inputs, *new.outputs)]
            one, known = only_entry(module, entry), own_parameters(before, before.entries[entry])
            for unroll in (False, True):
                flat = assert_same(one, inline(one, entry, unroll), "inlined")
                assert own_parameters(flat, flat.entries[entry]).keys() <= known.keys()
