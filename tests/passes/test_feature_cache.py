"""Block caching: golden before and after; a cache written by hand in PyTorch; what it saves; what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted

from latentc import api
from latentc.checkpoint import buffer, computed, network_params
from latentc.components.samplers.table import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import B, ModuleBuilder, f32, i64, module_class
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.ir.report import weights_read
from latentc.ir.text import text_from_module
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes.feature_cache import WRITTEN_OUT, cache
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import materialise

TINY = ("backbone.width=16", "backbone.depth=4", "backbone.block.mixer.heads=2")


@module_class("Layer")
def layer(b: Any, x: Any, c: Any, *, dim: int) -> Any:
    return x + b.tanh(b.dense("fc", x * c, dim))


@module_class("Net")
def net(b: Any, x: Any, t: Any, y: Any, *, dim: int, depth: int) -> Any:
    c = b.embedding(b.param("y.weight", f32(4, dim), "normal", std=0.5), y)
    for i in range(depth):
        x = b.sub(f"layers.{i}", layer, x, c, dim=dim)
    return b.dense("out", x, dim) * b.reshape(t, shape=(x.shape[0], 1))


@module_class("Hourglass")
def hourglass(b: Any, x: Any, t: Any, y: Any, *, dim: int, depth: int) -> Any:
    c = b.embedding(b.param("y.weight", f32(4, dim), "normal", std=0.5), y)
    for name in [f"down.{i}" for i in range(depth - 1)] + [f"up.{i}" for i in range(depth)]:
        x = b.sub(name, layer, x, c, dim=dim)
    return x * b.reshape(t, shape=(x.shape[0], 1))


def sampler(trip: int = 6, indexed: bool = False, dim: int = 4, of: Any = net) -> Any:
    """Steps over a network of three layers, with guidance, noise and a carried history."""
    mb = ModuleBuilder()
    fn = mb.define(of, [f32(B, dim), f32(B), i64(B)], {"dim": dim, "depth": 3})
    mb.entries["main.forward"] = fn
    b = mb.function(f"sample.{trip}")
    x, y, scale, noise = (
        b.input(name, kind)
        for name, kind in (("x", f32(B, dim)), ("y", i64(B)), ("scale", f32(B)), ("noise", f32(trip, B, dim)))
    )

    def body(b: Any, i: Any, kept: Any, state: Any, rows: Any) -> Any:
        (y, scale), (x, h), (t, z) = kept, state, rows
        time = b.broadcast_to(t, y, shape=y.shape, out="time")
        null = b.broadcast_to(b.constant(3), y, shape=y.shape, out="null")
        d = b.guided(fn, "main", (x, time, y), ("shared", "shared", "conditional"), (null,), scale)
        if indexed:
            d = d * b.cast(i, to="f32")
        return (x * 0.9 + d * 0.2 + h * 0.05 + z * 0.1, d), ()

    tables = [b.constant(np.linspace(1, 0.1, trip), out="t"), noise]
    out = b.loop("steps", trip, body, invariants=[y, scale], carried=[x, x * 0.0], tables=tables)
    b.output(out[0])
    mb.entries[f"sample.{trip}"] = b.finish()
    return verify(mb.finish(), "train")


def every(n: int) -> Any:
    return lambda step, k: k % n == 0


def test_golden(golden: Any) -> None:
    before = sampler(4)
    after = verify(cache(before, "main", (1, 3), every(2)), "train")
    parts = ["# cache\n\n## Before\n\n```", text_from_module(before), "```\n\n## After\n\n```"]
    golden("passes/cache.md", "\n".join([*parts, text_from_module(after), "```\n"]))


def by_hand(module: Any, weights: dict[str, Any], computes: list[bool], blocks: tuple[int, int], given: Any) -> Any:
    """The sampler of `sampler` in plain numpy, its cache a variable."""
    x, y, scale, noise, trip = *given, len(computes)
    held: dict[str, Any] = {}

    def forward(x: Any, t: float, y: Any, branch: str, compute: bool) -> Any:
        c = weights["main.y.weight"][y]
        for i in range(3):
            if i == blocks[0]:
                before = x
            if compute or not blocks[0] <= i < blocks[1]:
                w, bias = (weights[f"main.layers.{i}.fc.{name}"] for name in ("weight", "bias"))
                x = x + np.tanh((x * c) @ w.T + bias)
            if i == blocks[1] - 1:
                held[branch] = x - before if compute else held[branch]
                x = before + held[branch]
        return (x @ weights["main.out.weight"].T + weights["main.out.bias"]) * t

    h = np.zeros_like(x)
    for t, z, compute in zip(np.linspace(1, 0.1, trip), noise, computes, strict=True):
        cond, null = forward(x, t, y, "c", compute), forward(x, t, np.full_like(y, 3), "u", compute)
        d = null + scale[:, None] * (cond - null)
        x, h = x * 0.9 + d * 0.2 + h * 0.05 + z * 0.1, d
    return x


def given_to(module: Any, trip: int) -> tuple[dict[str, Any], tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    params = {"main.y.weight": (4, 4), "main.out.weight": (4, 4), "main.out.bias": (4,)}
    params |= {
        f"main.layers.{i}.fc.{name}": shape for i in range(3) for name, shape in (("weight", (4, 4)), ("bias", (4,)))
    }
    weights = {name: rng.standard_normal(shape) for name, shape in params.items()}
    given = rng.standard_normal((2, 4)), np.array([0, 2]), np.array([1.5, 3.0]), rng.standard_normal((trip, 2, 4))
    return weights, given


@pytest.mark.parametrize("blocks", [(0, 3), (1, 2), (1, 3)])
@pytest.mark.parametrize("steps", [(0, 2, 4), (0, 3), (0,), (0, 1, 2), (0, 1, 4, 5), (0, 2, 4, 6, 8, 10), (0, 6)])
def test_the_cache_is_the_one_written_by_hand(blocks: tuple[int, int], steps: tuple[int, ...]) -> None:
    trip = 12 if max(steps) > 5 else 6
    module = sampler(trip)
    after = verify(cache(module, "main", blocks, lambda step, k: step in steps), "train")
    weights, given = given_to(module, trip)
    wanted = by_hand(module, weights, [k in steps for k in range(trip)], blocks, given)
    for mode in ("batched", "sequential"):
        spec = load_spec("digits_dit", None, [f"optimize.guidance={mode}"])
        (out,) = Interpreter(after, weights).run(f"sample.{trip}", *given)
        np.testing.assert_allclose(out, wanted, rtol=1e-9)
        expanded = optimised(_lowered(after), spec).module
        (out,) = Interpreter(expanded, weights).run(f"sample.{trip}", *given)
        np.testing.assert_allclose(out, wanted, rtol=1e-6)
    (plain,) = Interpreter(module, weights).run(f"sample.{trip}", *given)
    assert np.abs(plain - wanted).max() > 1e-3, "the control: without the cache it is something else"


def _lowered(module: Any) -> Any:
    from latentc.components.contract import Lowered

    return Lowered(module, {}, (), ())


def test_the_number_of_the_step_is_kept() -> None:
    for size in (2, WRITTEN_OUT + 2):
        before, (weights, given) = sampler(12, indexed=True), given_to(None, 12)
        caching = cache(before, "main", (0, 3), every(size))
        counted, plain = (Interpreter(m, weights).run("sample.12", *given)[0] for m in (caching, sampler(12)))
        # All blocks reused with nothing in them: what is left must count the same steps with and without.
        empty = {n: np.zeros_like(w) if ".fc." in n else w for n, w in weights.items()}
        (a,), (b,) = (Interpreter(m, empty).run("sample.12", *given) for m in (caching, before))
        np.testing.assert_allclose(a, b, rtol=1e-9)
        assert np.abs(counted - plain).max() > 1e-3


def test_every_step_computed_is_no_caching() -> None:
    module = sampler()
    assert cache(module, "main", (0, 3), every(1)) is module
    plain, same = (lower(load_spec("digits_dit", None, [*TINY, *more])) for more in ([], [CACHE.format("1, 3", 1)]))
    assert text_from_module(plain.module) == text_from_module(same.module)


def test_what_cannot_be() -> None:
    for blocks in ((0, 4), (-1, 2), (2, 2), (3, 3)):
        with pytest.raises(ValueError, match="has 3 layers, 0 to 2"):
            cache(sampler(), "main", blocks, every(2))
    with pytest.raises(ValueError, match="no part 'attn'; it has none"):
        cache(sampler(), "main", (0, 2), every(2), ["attn"])
    with pytest.raises(DiagnosticError, match=r"E0311.*no part 'mixer'; it has attn, mlp"):
        api.check("digits_dit", None, [CACHE.format("0, 2", 2), "optimize.cache.parts=[mixer]"])
    with pytest.raises(DiagnosticError, match=r"E0311.*\[1, 5\) are out of range: network `main` has 4 blocks, 0 to 3"):
        api.check("digits_dit", None, [CACHE.format("1, 5", 2)])
    module = sampler()
    alone = module.with_(entries={"main.forward": module.entries["main.forward"]})
    with pytest.raises(ValueError, match="no sampling program"):
        cache(alone, "main", (0, 3), every(2))
    with pytest.raises(DiagnosticError, match="E0311"):
        load_spec("digits_llamagen", None, ["optimize.cache={blocks: [0, 1]}"])


def test_one_of_several_lists_of_blocks() -> None:
    """The caller says which list is meant; the longer one is not guessed."""
    module = sampler(of=hourglass)
    with pytest.raises(ValueError, match=r"several lists of blocks, down \(2\), up \(3\): name one in `among`"):
        cache(module, "main", (0, 2), every(2))
    with pytest.raises(ValueError, match="no list of blocks `middle`; it has down, up"):
        cache(module, "main", (0, 2), every(2), among="middle")
    with pytest.raises(ValueError, match="has 2 down, 0 to 1"):
        cache(module, "main", (0, 3), every(2), among="down")
    kept = cache(module, "main", (0, 2), every(2), among="down").entry("main.forward_cached")
    names = [node.attrs["name"] for node in kept.nodes if node.op == "call"]
    assert names == ["up.0", "up.1", "up.2"]


# ---- whole specs

CACHE = "optimize.cache={{blocks: [{}], every: {}}}"


def weights_of(lowered: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        f"main.{path}": materialise(buffer(param))
        if computed(param)
        else (rng.standard_normal([int(d) for d in param.type.shape]) * 0.15).astype(np.float32)
        for path, param in network_params(lowered, lowered.networks["main"]).items()
    }


SAMPLERS = [
    "{kind: ddim, steps: 7, guidance: {scale: 2.0, interval: [0.2, 0.8]}}",
    "{kind: ddpm, steps: 6, guidance: null}",
    "{kind: dpm_solver_pp, order: 3, steps: 9, guidance: {scale: 2.0}}",
    "{kind: unipc, steps: 8, guidance: {scale: 2.0, interval: [0.0, 0.5]}}",
    "{kind: heun, timesteps: [900, 700, 500, 300, 100], guidance: {scale: 2.0, interval: [0.0, 0.6]}}",
]


@pytest.mark.parametrize("chosen", SAMPLERS)
@pytest.mark.parametrize(("n", "parts"), [(2, []), (6, []), (3, ["attn", "mlp"]), (2, ["mlp"])])
def test_every_solver_against_a_cache_in_pytorch(chosen: str, n: int, parts: list[str], tmp_path: Path) -> None:
    """The emitted blocks, called by hand, what blocks 1 and 2 add kept in a variable for each evaluation of a step."""
    overrides = [*TINY, f"sampler={chosen}", CACHE.format("1, 3", n), f"optimize.cache.parts=[{', '.join(parts)}]"]
    spec = load_spec("digits_dit", None, overrides)
    lowered = lower(spec)
    (program,) = lowered.programs
    arrays, rng = weights_of(lowered), np.random.default_rng(2)
    x, y, scale = rng.standard_normal((2, 1, 8, 8)), np.array([3, 7]), np.array([1.5, 3.0])
    noise = rng.standard_normal((program.steps, 2, 1, 8, 8))
    given = {
        "x": x,
        "y": y,
        "scale": scale,
        "noise": noise[: program.sources["noise"].rows or 0] if "noise" in program.sources else None,
    }
    (ours,) = Interpreter(lowered.module, arrays).run(program.entry, *(given[name] for name in program.sources))
    guidance = spec.sampler.guidance
    table = spec.sampler.table(spec.objective.parameterization())
    progress = np.concatenate([part.progress.ravel() for part in table.parts()])
    sizes = segments(table, guidance)
    computes = [k % n == 0 for size in sizes for k in range(size)]
    with emitted(lowered, spec, tmp_path / "project") as project, torch.no_grad():
        model = project.model.build().double().eval()
        own = {path: torch.from_numpy(arrays[f"main.{path}"]).double() for path in model.state_dict()}
        model.load_state_dict(own)
        held: dict[Any, Any] = {}
        turns = itertools.count()

        def forward(x: Any, t: float, y: Any, key: Any, compute: bool) -> Any:
            h = model.pos_embed + model.x_embedder(x).flatten(2).transpose(1, 2)
            c = model.t_embedder(torch.full((2,), t, dtype=torch.float64)) + model.y_embedder(y)
            h = model.blocks[0](h, c)
            if parts:
                for i in (1, 2):
                    h = block_by_hand(model.blocks[i], h, c, held, (key, i), compute, parts)
                return model.final_layer(model.blocks[3](h, c), c)
            if compute:
                held[key] = model.blocks[2](model.blocks[1](h, c), c) - h
            return model.final_layer(model.blocks[3](h + held[key], c), c)

        def network(x: Any, t: float) -> Any:
            turn = next(turns)
            step, which = divmod(turn, 2) if table.evaluations == 2 else (turn, 0)
            x, labels = torch.from_numpy(x), torch.from_numpy(y)
            out = forward(x, t, labels, ("c", which), computes[step])
            if guidance is not None and guidance.acts(float(progress[turn])):
                null = forward(x, t, torch.full_like(labels, 10), ("u", which), computes[step])
                out = null + torch.from_numpy(scale)[:, None, None, None] * (out - null)
            return out.numpy()

        theirs = run(table, network, x, noise)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 2e-6
    off = load_spec("digits_dit", None, [*TINY, f"sampler={chosen}"])
    (plain,) = Interpreter(lower(off).module, arrays).run(program.entry, *(given[name] for name in program.sources))
    assert np.abs(ours - plain).max() / np.abs(plain).max() > 1e-4


def block_by_hand(block: Any, h: Any, c: Any, held: Any, key: Any, compute: bool, parts: list[str]) -> Any:
    """adaLN-Zero with the results of attention and feed-forward out of `held` where they are not computed."""
    modulation = block.adaLN(torch.nn.functional.silu(c)).unsqueeze(1).chunk(6, dim=2)
    for part, (shift, scale, gate) in (("attn", modulation[:3]), ("mlp", modulation[3:])):
        if compute or part not in parts:
            normal = torch.nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6)
            held[key, part] = getattr(block, part)(normal * (1 + scale) + shift)
        h = h + gate * held[key, part]
    return h


def segments(table: Any, guidance: Any) -> list[int]:
    """Steps in a row whose evaluations are guided alike, part by part of the table: where a cache begins anew."""
    sizes: list[int] = []
    for part in table.parts():
        flags = [tuple(guidance is not None and guidance.acts(float(p)) for p in row) for row in part.progress]
        sizes += [len(list(run)) for _, run in itertools.groupby(flags)]
    return sizes


def test_what_it_saves() -> None:
    """Half of the steps without half of the blocks."""
    plain, cached = (
        lower(load_spec("digits_dit", None, [*TINY, "sampler.steps=8", *more]))
        for more in ([], [CACHE.format("1, 3", 2)])
    )
    forward = "main.forward"
    block = flops(plain.module, "DiTBlock.forward")
    old, new = (flops(each.module, "sample.8") for each in (plain, cached))
    assert old - new == pytest.approx(2 * 4 * 2 * block, rel=0.01)  # branches × steps × blocks
    assert 2 * 8 * flops(plain.module, forward) == pytest.approx(old, rel=0.01)
    reads = [weights_read(each.module, "sample.8").total for each in (plain, cached)]
    blocks = 4 * sum(
        p.type.count() for n, p in network_params(plain, plain.networks["main"]).items() if n.startswith("blocks.1.")
    )
    assert reads[0] - reads[1] == 4 * 2 * blocks
    # `show` says both
    told = api.show("digits_dit", None, [*TINY, "sampler.steps=8", CACHE.format("1, 3", 2)])["sample.8"]
    assert (told.flops, told.read_bytes, told.uncached) == (new, reads[1], (old, reads[0]))
    assert "uncached" in told.text()
    # after every pass of the target too
    done = [optimised(each, load_spec("digits_dit", None, TINY)) for each in (plain, cached)]
    assert flops(done[1].module, "sample.8") < 0.8 * flops(done[0].module, "sample.8")
