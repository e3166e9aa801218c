"""Bundles of tiny shipped specs: every form against the oracle, through the real runtime; failures leave nothing."""

from __future__ import annotations

import errno
import functools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_runs import weights_of

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.export import store
from latentc.export.bundle import bundle_from_lowered, onnx_from_network
from latentc.export.forms import choose_form
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array, Expr, cast, concatenate, read_safetensors, split, write_safetensors
from latentc_runtime.backends import open_backend
from latentc_runtime.manifest import EngineCall, Loop, Rows
from latentc_runtime.request import check_request

CLASSES = [1, 0, 7]
TINY_DIT = ("backbone.width=32", "backbone.depth=2")


@functools.cache
def lowered_of(name: str, *overrides: str, steps: tuple[int, ...] = ()) -> Any:
    spec = load_spec(name, None, list(overrides))
    return spec, lower(spec, steps)


def arrays_of(lowered: Any) -> dict[str, Any]:
    return weights_of(parameters(lowered.module, lowered.networks["main"].methods["forward"].function))


def stored_weights(lowered: Any, folder: Path) -> dict[str, Expr]:
    """What training makes in a file; buffers are for the exporter to compute."""
    params = parameters(lowered.module, lowered.networks["main"].methods["forward"].function)
    learned = {k: Array(v) for k, v in arrays_of(lowered).items() if params[k].kind in ("weight", "state")}
    write_safetensors(folder / "w.safetensors", learned)
    return dict(read_safetensors(folder / "w.safetensors"))


def make(lowered: Any, spec: Any, weights: Any, folder: Path, after: str | None = None, **options: Any) -> Any:
    ready = optimised(lowered, spec, after)
    return bundle_from_lowered(ready, spec, {"main": weights}, folder, spec_text=resolved_yaml(spec), **options)


def oracle(lowered: Any, pipe: Any, steps: int | None = None) -> Any:
    entry = pipe.program(steps=steps)
    request = check_request(pipe.manifest, entry, CLASSES, 5)
    inputs = [request.array(i) for i in entry.inputs]
    weights = {f"main.{k}": v for k, v in arrays_of(lowered).items()}
    program = next(p for p in lowered.programs if p.steps == entry.steps)
    return Interpreter(lowered.module, weights).run(program.entry, *inputs)[0]


def assert_same(got: Any, want: Any) -> None:
    if want.dtype.kind == "i":
        np.testing.assert_array_equal(got, want)
    else:
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


SYSTEMS = {
    "ddim": ("digits_dit", *TINY_DIT, "sampler.steps=4"),
    "ddpm": ("digits_dit", *TINY_DIT, "sampler={kind: ddpm, steps: 4, guidance: {scale: 2.0, interval: [0.3, 0.8]}}"),
    "dpm_solver": ("digits_dit", *TINY_DIT, "sampler={kind: dpm_solver_pp, steps: 4}"),
    **{
        f"{form} experts": (
            "digits_dit",
            *TINY_DIT,
            "sampler.steps=4",
            "backbone.block.feed_forward={kind: mixture_of_experts, experts: 4, ratio: 2}",
            f"optimize.experts={form}",
        )
        for form in ("dense", "sparse")
    },
    "unipc": ("digits_dit", *TINY_DIT, "sampler={kind: unipc, steps: 5}"),
    "tokens": ("digits_llamagen", "backbone.depth=2"),
}


@pytest.mark.parametrize(
    ("system", "form"),
    # 64 tokens written out take long and say nothing new
    [(s, f) for s in SYSTEMS for f in ("unroll", "loop", "host") if (s, f) != ("tokens", "unroll")],
)
def test_every_form_gives_what_the_oracle_gives(system: str, form: str, tmp_path: Path) -> None:
    spec, lowered = lowered_of(*SYSTEMS[system])
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", form=form, max_batch=8)
    assert manifest.programs[0].form == form
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    assert_same(pipe.sample(CLASSES, seeds=5), oracle(lowered, pipe))


def test_host_program_makes_noise_a_step_at_a_time(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler={kind: ddpm, steps: 6}")
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", form="host")
    (loop,) = [s for s in manifest.programs[0].program if isinstance(s, Loop)]
    assert list(loop.noise.values()) == [Rows("noise", 0, (1,))]


def test_noise_of_a_part_of_the_steps_is_made_a_step_at_a_time(tmp_path: Path) -> None:
    """Guidance for a while, and steps that reuse: the loops of the program take rows where they stand."""
    sampler = "sampler={kind: ddpm, steps: 12, guidance: {scale: 2.0, interval: [0.3, 0.6]}}"
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, sampler, "optimize.cache={blocks: [0, 1], every: 2}")
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", form="host")
    loops = [s for s in manifest.programs[0].program if isinstance(s, Loop)]
    taken = [
        rows.first + k * step
        for loop in loops
        for step in range(loop.trip)
        for rows in loop.noise.values()
        for k in rows.strides
    ]
    assert sorted(taken) == list(range(12))
    read = {v for s in manifest.programs[0].program if isinstance(s, EngineCall) for v in s.inputs.values()}
    assert "noise" not in read, "no engine gets the noise of all steps"
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    assert_same(pipe.sample(CLASSES, seeds=5), oracle(lowered, pipe))


def test_step_counts_share_the_weights_and_what_engines_they_can(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, steps=(3, 5))
    # Before hoisting, whose tables have a row per step.
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", "expand_guidance", form="host")
    assert [s.steps for s in manifest.programs] == [3, 5]
    steps = [s.file for sampler in manifest.programs for loop in sampler.program if isinstance(loop, Loop)
             for s in loop.body if isinstance(s, EngineCall)]  # fmt: skip
    assert len(steps) == 2 and len(set(steps)) == 1, "one step engine serves both tables"
    assert [name for name in manifest.files if name.startswith("weights/")].count("weights/w.safetensors") == 1
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    for count in (3, 5):
        assert_same(pipe.sample(CLASSES, seeds=5, steps=count), oracle(lowered, pipe, count))


def test_by_reference_copies_no_weight(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", by_reference=True)
    assert manifest.references["weights/w.safetensors"].location == str(tmp_path / "w.safetensors")
    assert not (tmp_path / "b/weights/w.safetensors").exists()
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    assert_same(pipe.sample(CLASSES, seeds=5), oracle(lowered, pipe))
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(latentc_runtime.BundleError, match="E0611"):
        latentc_runtime.load(tmp_path / "b", device="cpu")


def test_rearranged_weights_are_derived(tmp_path: Path) -> None:
    """Expressions that are no file range, and a weight stored in another dtype, give the same samples."""
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights = stored_weights(lowered, tmp_path)
    name = max(weights, key=lambda k: np.prod(weights[k].shape))
    low, high = split(weights[name], [weights[name].shape[0] // 2] * 2, 0)
    weights[name] = concatenate([cast(cast(low, "f64"), "f32"), high], 0)
    manifest = make(lowered, spec, weights, tmp_path / "b")
    assert "weights/derived.safetensors" in manifest.files
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    assert_same(pipe.sample(CLASSES, seeds=5), oracle(lowered, pipe))


def test_control_other_weights_give_other_samples(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights = stored_weights(lowered, tmp_path)
    table = next(name for name in weights if name.startswith("y") and len(weights[name].shape) == 2)
    weights[table] = Array(np.zeros(weights[table].shape, np.float32))
    make(lowered, spec, weights, tmp_path / "b")
    pipe = latentc_runtime.load(tmp_path / "b", device="cpu", threads=1)
    want = oracle(lowered, pipe)
    assert np.abs(pipe.sample(CLASSES, seeds=5) - want).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize("opset", [20, 21, 23, 24, 25])
def test_a_network_alone(opset: int, tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights, ready = stored_weights(lowered, tmp_path), optimised(lowered, spec)
    path, external = onnx_from_network(ready, "main", "forward", weights, tmp_path, opset)
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((2, 1, 8, 8)).astype("f4"), "t": np.array([3, 900], "f4"), "y": np.array([1, 2])}
    got = open_backend("cpu").engine(path, external).run(inputs, ["out"])["out"].numpy()
    want = Interpreter(lowered.module, arrays_of(lowered)).run("main.forward", *inputs.values())[0]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert onnx.load(path, load_external_data=False).opset_import[0].version == opset


# ---- failures


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights = stored_weights(lowered, tmp_path)
    lacking = {k: v for k, v in weights.items() if k != "blocks.1.attn.qkv.weight"}
    with pytest.raises(DiagnosticError, match=r"E0410.*lack main\.blocks\.1\.attn\.qkv\.weight"):
        make(lowered, spec, lacking, tmp_path / "b")
    wrong = {**weights, "blocks.1.attn.qkv.weight": weights["blocks.1.attn.proj.weight"]}
    with pytest.raises(DiagnosticError, match=r"E0410.*needs \[96, 32\]"):
        make(lowered, spec, wrong, tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("older", [False, True])
def test_a_compile_that_stops_leaves_nothing(
    error: BaseException, older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights = stored_weights(lowered, tmp_path)
    if older:
        make(lowered, spec, weights, tmp_path / "b", max_batch=3)

    def fail(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(store, "copy_file", fail)
    expected = DiagnosticError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        make(lowered, spec, weights, tmp_path / "b")
    if isinstance(error, OSError):
        assert "E0501" in str(caught.value) and "No space left" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["b"] if older else []) + ["w.safetensors"]
    if older:
        assert latentc_runtime.load(tmp_path / "b", device="cpu").manifest.programs[0].max_batch == 3


def test_an_older_bundle_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    weights = stored_weights(lowered, tmp_path)
    for batch in (3, 4):
        make(lowered, spec, weights, tmp_path / "b", max_batch=batch)
    assert json.loads((tmp_path / "b/manifest.json").read_text())["programs"][0]["max_batch"] == 4
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for place in ("mine", "w.safetensors"):
        with pytest.raises(DiagnosticError, match="E0502"):
            make(lowered, spec, weights, tmp_path / place)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


# ---- forms


def test_auto_says_why() -> None:
    _, few = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    _, many = lowered_of("digits_dit", *TINY_DIT, "sampler={kind: ddpm, steps: 250}")
    assert choose_form(few.module, few.programs[0], 64)[0] == "unroll"
    form, why = choose_form(many.module, many.programs[0], 64)
    assert form == "loop" and "250 evaluations" in why
    form, why = choose_form(few.module, few.programs[0], 64, "openvino")
    count = sum(
        p.type.count() for p in parameters(few.module, few.networks["main"].methods["forward"].function).values()
    )
    assert form == "loop" and f"4 evaluations would hold its own copy of {count / 1e6:.3g} M weights" in why
    form, why = choose_form(many.module, many.programs[0], 4096)
    assert form == "host" and "262 MB" in why


def test_copies_are_whole_where_the_kernel_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).bytes(5_000_001)
    (tmp_path / "a").write_bytes(data)
    store.copy_file(tmp_path / "a", tmp_path / "b")

    def refused(*_: Any) -> int:
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "copy_file_range", refused)
    store.copy_file(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() == data


def test_unknown_sources_do_not_pass(tmp_path: Path) -> None:
    """A manifest that contradicts itself is not written."""
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    twice = replace(lowered, programs=lowered.programs * 2)
    with pytest.raises(latentc_runtime.BundleError, match="same name and number of steps"):
        make(twice, spec, stored_weights(lowered, tmp_path), tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.safetensors"]
