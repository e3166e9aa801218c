"""Names that collide with those of emitted files, Python or nn.Module: the text avoids them, weights keep theirs."""

from __future__ import annotations

import ast
import builtins
import keyword
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from forked import python
from hypothesis import given, settings
from hypothesis import strategies as st
from test_specs import CASES, lowered
from torch import nn
from torch_module import loaded, objective_and_sampler, random_weights, side_file

from latentc.emit import names as reserved
from latentc.emit.functions import Functions
from latentc.emit.helpers import helper_source
from latentc.emit.model import imports, model_source, networks_file
from latentc.emit.project import project_from_lowered
from latentc.emit.text import identifier
from latentc.ir.builder import ModuleBuilder, f32, items, module_class
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OpError
from latentc.ir.types import B, Named, Sym
from latentc.lower import lower
from latentc.spec import load_spec

LAYERS = (
    *(nn.Module(), nn.ModuleDict(), nn.ModuleList(), nn.Linear(1, 1), nn.Conv2d(1, 1, 1), nn.Embedding(1, 1)),
    *(nn.ConvTranspose2d(1, 1, 1), nn.LayerNorm(1), nn.RMSNorm(1), nn.GroupNorm(1, 1), nn.BatchNorm2d(1)),
)
OWN = {"weight", "bias", "running_mean", "running_var"}
# Before any test runs: transformers adds a method to every module of the process when it builds a model.
NAMES = [set(dir(layer)) for layer in LAYERS]
ATTRIBUTES = sorted(set().union(*NAMES) - OWN - {"training"})
FILES = sorted({*reserved.TAKEN, "build", "sizes", "layer", "block", "i", "x", "rows", "skips", "_", "__"})
LOWER = sorted({n for n in (*ATTRIBUTES, *FILES, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)) if n.islower()})
UNFIT = {*keyword.kwlist, "self", "b", "x"}  # for arguments of the functions that build networks here
UPPER = sorted({n for n in (*FILES, *map(str.upper, LOWER), "T", "C") if n.isidentifier() and n.isupper()} - {"B"})


def hidden_names(text: str) -> list[str]:
    """Arguments and locals of the functions of a file, helpers aside, that have names which such files use."""
    found = []
    for function in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)):
        own = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
        own |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        found += sorted(own & reserved.TAKEN - {"self"}) if function.name not in reserved.HELPERS else []
    return found


class Hostile:
    """Draws a network whose labels, arguments, methods, members, values and constants have such names."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.left = random.sample([*LOWER, "0", "a-b", "ﬁ"], 40)

    def name(self, legal: bool = False) -> str:
        return next(n for n in iter(self.left.pop, None) if not legal or (n.isidentifier() and n not in UNFIT))

    def argument(self) -> str:
        """A name of an argument: Python itself reads one with a ligature as the name in plain letters."""
        return next(n for n in iter(lambda: self.name(True), None) if unicodedata.is_normalized("NFKC", n))

    def label(self) -> str:
        return self.random.choice(UPPER)

    def network(self) -> tuple[Any, dict[str, int]]:
        random, width = self.random, self.argument()
        wide = random.choice([self.argument(), "training"])
        dense, inner, gate, layers, listed, kept = (self.name() for _ in range(6))
        rows, columns = random.sample(UPPER, 2)
        part = self.block(width)
        values = [self.name(True) for _ in range(4)]
        both, late = random.random() < 0.3, random.random() < 0.5

        cls = self.name(True).title() if random.random() < 0.7 else self.name(True)

        @module_class(cls, x=f"B {width} {rows} {columns}")
        def network(b: Any, x: Any, **static: int) -> Any:
            batch, size, height, across = x.shape
            h = b.transpose(b.reshape(x, shape=(batch, size, height * across)), perm=(0, 2, 1), out=values[0])
            h = b.silu(b.dense(dense, h, static[wide]), out=values[1])
            h = b.dense(f"{dense}.{inner}" if late else f"{gate}.{inner}", h, size)
            for name in items(layers, 2):
                h = b.sub(name, part, h, out=values[2], **{width: size})
            h = h * b.param(dense if both else listed, f32(size), "ones")
            h = h + b.sum(b.constant(TABLE, out=values[3]), axes=(0,), keepdims=False)
            h = h + b.param(f"{layers}.1.{kept}", f32(size), "normal")
            h = h + b.param(f"{kept}.{gate}", f32(1), "zeros", "state") + b.param(inner, f32(1), "normal", "state")
            spread = b.broadcast_to(b.param(f"{gate}.{listed}", f32(1, 1, size), "normal"), h, shape=h.shape)
            return b.reshape(h + spread, shape=(batch, height, across, size))

        return network, {width: 3, wide: 5}

    def block(self, width: str) -> Any:
        names = [self.name() for _ in range(3)]
        label, value, other = self.label(), self.name(True), self.name(True)

        @module_class(self.name(True).title(), x=f"B {label} {width}")
        def block(b: Any, x: Any, **static: int) -> Any:
            size = x.shape[2]
            h = b.dense(names[0], x, size, out=value)
            h = h + b.param(names[1], f32(size), "ones")
            table = b.constant(np.arange(float(int(size))), out=other)
            return x + b.silu(h) * b.param(f"{names[2]}.{names[0]}", f32(1), "ones") + table

        return block


TABLE = np.sin(np.arange(5.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_networks(seed: int) -> None:
    mb = ModuleBuilder()
    body, static = Hostile(Random(seed)).network()
    fn = mb.define(body, [f32(B, 3, 2, 4)], static)
    module = mb.finish()
    file = networks_file(module, {"main": [fn]})
    model = loaded(file.text, torch.float64, **side_file(file.constants))["build"]().double().eval()
    weights = random_weights(module, [fn])
    saved = {name for name, p in parameters(module, fn).items() if p.kind != "buffer"}
    assert set(model.state_dict()) == saved == set(weights), file.text
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 4))
    mb.entries["main"] = fn
    (expected,) = Interpreter(mb.finish(), weights).run("main", x)
    found = model(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12, equal_nan=False, err_msg=file.text)
    assert model.train().training and not model.eval().training
    assert {p.dtype for p in model.to(torch.bfloat16).state_dict().values()} == {torch.bfloat16}
    assert hidden_names(file.text) == [], file.text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_free_functions(seed: int) -> None:
    random = Random(seed)
    first, second, third, fourth, network = (identifier(n) and n for n in random.sample(LOWER, 5))
    label, other = random.sample(UPPER, 2)
    mb = ModuleBuilder()

    @module_class("Doubled")
    def doubled(b: Any, x: Any) -> Any:
        return x * 2.0

    types = f32(B, Named(3, label), Named(4, other))
    double = mb.define(doubled, [types], {})
    b = mb.function(first)
    x, y = b.input(second, types), b.input(third, f32(Sym(random.choice("FNTH")), 4))
    h = b.call(double, network, b.silu(x), out=fourth)
    h = b.reshape(h, shape=(h.shape[0], h.shape[1] * h.shape[2]), out=second)
    h = b.sum(
        b.reshape(h, shape=types.shape) + b.broadcast_to(b.constant(TABLE[:4], out=third), x, shape=types.shape),
        axes=(2,),
        keepdims=False,
    )
    b.output(h, b.reshape(b.silu(y), shape=(y.shape[0], 2, 2)))
    mb.entries["main"] = b.finish()
    functions = Functions(mb.finish())
    name = functions.add(mb.entries["main"])
    text = "\n\n".join([helper_source(list(functions.helpers)), *functions.texts])
    text = "\n".join([*imports(text), text])
    values = np.random.default_rng(0).standard_normal((2, 3, 4)), np.random.default_rng(1).standard_normal((3, 4))
    scope = loaded(text, torch.float64, **side_file(functions.constants))
    made = scope[name](lambda x: 2 * x, *map(torch.tensor, values))
    for actual, expected in zip(made, Interpreter(mb.finish(), {}).run("main", *values), strict=True):
        np.testing.assert_allclose(
            actual.double().numpy(), expected, rtol=1e-7, atol=1e-7, equal_nan=False, err_msg=text
        )
    assert hidden_names(text) == [], text


def test_networks_have_names_of_their_own() -> None:
    """Arguments and functions: `model` is that of `main`, `weights` holds those of free functions."""
    mb = ModuleBuilder()
    double = mb.define(module_class("Doubled")(lambda b, x: x * 2.0), [f32(B, 3)], {})
    inner = mb.function("terms")
    x = inner.input("x", f32(B, 3))
    names = ("main", "model", "weights", "terms", "loss", "x")
    inner.output(*(inner.call(double, name, x) + inner.param("scale", f32(3), "ones") for name in names))
    inner.finish()
    b = mb.function("loss")
    b.output(*b.call("terms", "", b.input("x", f32(B, 3))))
    mb.entries["main"] = b.finish()
    functions = Functions(mb.finish())
    text = "\n".join([*imports("Tensor nn."), functions.add("loss") and "", *functions.texts])
    loss = loaded(f"from collections.abc import Mapping\n{text}")[functions.add("loss")]
    ways = [lambda x, k=k: k * x for k in range(len(names))]
    made = loss(*ways, {"scale": torch.zeros(3)}, torch.ones(1, 3))
    assert [float(x[0, 0]) for x in made] == [*range(len(names))], text


@pytest.mark.parametrize("case", ["dit-unipc", "uvit", "digits-llamagen", "digits-maskgit"])
def test_shipped_systems_hide_no_names(case: str) -> None:
    low = lowered(case)
    _, _, text = objective_and_sampler(low, torch.float64)
    head, *files = text.split("\n\nimport ")  # files one after the other
    assert case in CASES and hidden_names(model_source(low)) == []
    assert all(hidden_names(f"import {file}") == [] for file in files) and head


@pytest.mark.parametrize("path", ["training", "blocks.training.weight", "training.0", "a..b", "a."])
def test_paths_that_pytorch_does_not_allow_are_refused(path: str) -> None:
    mb = ModuleBuilder()
    b = mb.function("loss")
    x = b.input("x", f32(B, 3))
    double = mb.define(module_class("Doubled")(lambda b, x: x * 2.0), [x.type], {})
    for use in (lambda: b.param(path, f32(3), "zeros"), lambda: b.call(double, path, x)):
        with pytest.raises(OpError, match=f"`{path}` in loss"):
            use()
    b.call(double, "", x)  # a method of the same module


def test_the_lists_are_complete() -> None:
    """Those of the installed PyTorch; another may have fewer."""

    module, *others = ({name for name in names if not name.startswith("_")} - OWN for names in NAMES)
    assert module <= reserved.MODULE
    assert others[0] | others[1] <= reserved.MODULE | reserved.CONTAINER
    assert set().union(*others[2:]) <= reserved.MODULE | reserved.LAYER


def test_a_project_trains_and_samples_with_conditions_of_any_name(tmp_path: Path) -> None:
    """Arrays reach the loss and the sampler under the names of the data, which are no arguments in Python."""
    names = ("lambda", "map", "torch", "np", "training")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {name: rng.standard_normal((16, 2)).astype(np.float32) for name in names}
    np.savez(tmp_path / "train.npz", x=rng.uniform(-1, 1, (16, 1, 8, 8)).astype(np.float32), **arrays)
    fields = ", ".join(f"{name}: {{shape: [2]}}" for name in names)
    conditions = [f"conditioning.{name}={{kind: vector}}" for name in names]
    sizes = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.guidance=null"]
    data = f"data={{kind: npz, path: {tmp_path}/train.npz, shape: [1, 8, 8], fields: {{{fields}}}}}"
    spec = load_spec("digits_dit", None, [data, "conditioning.class=null", "sampler.steps=1", *sizes, *conditions])
    project_from_lowered(lower(spec), spec, tmp_path / "project")
    flags = ["--steps", "1", "--batch_size", "4", "--sample_every", "null", "--workers", "0"]
    done = python(tmp_path / "project", "train.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = ["--weights", "runs/train/weights.safetensors"]
    given = [word for name in names for word in ("--given", f"{name}={tmp_path}/train.npz")]
    done = python(tmp_path / "project", "sample.py", *weights, *given, "--count", "16", "-o", "x.npz")
    assert done.returncode == 0, done.stdout + done.stderr
