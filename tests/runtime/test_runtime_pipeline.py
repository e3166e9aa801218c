"""Sampling from whole bundles: the three forms, batches, seeds, noise, guidance, progress, refusals."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundles as tiny

import latentc_runtime
from latentc_runtime import BundleError, load, noise, request
from latentc_runtime.backends.onnxruntime import OrtEngine
from latentc_runtime.bundle import write_manifest
from latentc_runtime.hashes import hash_file
from latentc_runtime.manifest import EngineCall, Loop, Reference, Rows
from latentc_runtime.program import run_program
from latentc_runtime.sources import RandomSource

CLASSES, SEEDS = [3, 1, 9, 0, 3], [7, 2**63, 7, 0, 2**64 - 1]


@pytest.fixture(params=["loop", "host"])
def bundle(request, tmp_path):
    return {"loop": tiny.loop_bundle, "host": tiny.host_bundle}[request.param](tmp_path / "bundle")


def open_(path, **options):
    return load(path, device="cpu", threads=1, **options)


def test_samples_are_what_numpy_gives(bundle):
    pipe = open_(bundle)
    samples = pipe.sample(CLASSES, SEEDS, guidance=[1, 2, 3, 4, 5])
    assert samples.dtype == np.float32 and samples.shape == (5, 1, 2, 2)
    np.testing.assert_allclose(samples, tiny.expected(CLASSES, SEEDS, [1, 2, 3, 4, 5]), rtol=1e-5, atol=1e-6)
    assert (pipe.device, pipe.steps, pipe.manifest.name) == ("cpu", (3,), "tiny")


def test_defaults(bundle):
    samples = open_(bundle).sample([1, 2])
    np.testing.assert_allclose(samples, tiny.expected([1, 2], [0, 1], [4, 4]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_batches_do_not_show(bundle, batch):
    pipe = open_(bundle)
    whole = pipe.sample(CLASSES, SEEDS)
    np.testing.assert_array_equal(pipe.sample(CLASSES, SEEDS, batch=batch), whole)
    order = [4, 2, 0, 1, 3]
    shuffled = pipe.sample(np.array(CLASSES)[order], [SEEDS[i] for i in order], batch=batch)
    np.testing.assert_array_equal(shuffled, whole[order])


def test_largest_batch_of_the_engine_is_kept(tmp_path):
    pipe = open_(tiny.host_bundle(tmp_path / "bundle", max_batch=2))
    sizes = []
    run = pipe._run
    pipe._run = lambda request, *rest: sizes.append(len(request)) or run(request, *rest)
    pipe.sample(CLASSES, SEEDS, batch=4)
    assert sizes == [2, 2, 1]


def test_no_samples_asked(bundle):
    assert open_(bundle).sample([], []).shape == (0, 1, 2, 2)


def test_rows_made_ahead_do_not_show(bundle, monkeypatch):
    pipe = open_(bundle)
    whole = pipe.sample(CLASSES, SEEDS)
    for ahead in (1, 2 * 5 * 4):
        monkeypatch.setattr(request, "AHEAD", ahead)
        np.testing.assert_array_equal(pipe.sample(CLASSES, SEEDS), whole)


def test_given_noise_replaces_the_seeds(bundle):
    pipe = open_(bundle)
    made = pipe.noise(SEEDS, 5)
    np.testing.assert_array_equal(pipe.sample(CLASSES, 0, noise=made, batch=2), pipe.sample(CLASSES, SEEDS))
    first = "x" if "x" in made else "out"
    doubled = made | {first: 2 * made[first].astype(np.float64)}
    expected = tiny.expected(CLASSES, SEEDS, [4] * 5, {"x": doubled[first], "n": made["n"]})
    np.testing.assert_allclose(pipe.sample(CLASSES, SEEDS, noise=doubled), expected, rtol=1e-5, atol=1e-6)
    only = pipe.sample(CLASSES, SEEDS, noise={"n": made["n"]})
    np.testing.assert_array_equal(only, pipe.sample(CLASSES, SEEDS))


def test_progress(tmp_path):
    for make, each in ((tiny.loop_bundle, 1), (tiny.host_bundle, tiny.STEPS)):
        calls = []
        open_(make(tmp_path / make.__name__)).sample(CLASSES, batch=2, progress=lambda *c: calls.append(c))  # noqa: B023
        assert calls == [(i, 3 * each) for i in range(3 * each + 1)]


def test_a_bundle_that_was_replaced_is_not_mixed_with_the_new_one(tmp_path):
    path = tiny.loop_bundle(tmp_path / "bundle")
    manifest = open_(path).manifest
    shutil.copy(path / "sample.onnx", path / "short.onnx")
    (entry,) = manifest.programs
    (call,) = entry.program
    short = replace(entry, steps=1, program=(replace(call, file="short.onnx"),))
    tiny.write(path, (entry, short), manifest.output, [*manifest.files, "short.onnx"])
    pipe, other = open_(path), open_(path)
    before = other.sample([1], steps=1)  # opened in time
    (path / "manifest.json").rename(tmp_path / "old.json")
    tiny.write(path, (entry, short), manifest.output, [*manifest.files, "short.onnx"])
    with pytest.raises(BundleError, match=r"E0604.*replaced[\s\S]*load it again"):
        pipe.sample([1], steps=1)
    np.testing.assert_array_equal(other.sample([1], steps=1), before)


def test_progress_can_stop_sampling(bundle):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    pipe = open_(bundle)
    with pytest.raises(KeyboardInterrupt):
        pipe.sample(CLASSES, progress=stop)
    assert np.isfinite(pipe.sample(CLASSES)).all()


def test_tokens(tmp_path):
    pipe = open_(tiny.token_bundle(tmp_path / "bundle"))
    tokens = pipe.sample(CLASSES, SEEDS)
    u = noise.uniforms(SEEDS, "token", (), range(tiny.TOKENS))
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, ((np.floor(u * 5) + np.array(CLASSES)) % 5).T)
    images = pipe.images(tokens)
    assert images.shape == (5, 2, 2, 1) and set(images.ravel()) <= {0, 64, 128, 191, 255}


def test_weights_by_reference(tmp_path):
    far = tmp_path / "far" / "weights.bin"
    tiny.write_weights(far)
    entry = hash_file(far)
    references = {"weights/tiny.bin": Reference(entry.sha256, entry.size, str(far))}
    path = tiny.loop_bundle(tmp_path / "bundle", references)
    np.testing.assert_allclose(open_(path).sample([1]), tiny.expected([1], [0], [4]), rtol=1e-5, atol=1e-6)
    far.write_bytes(far.read_bytes()[:-1] + b"\xff")
    for change in (lambda: None, far.unlink):
        change()
        with pytest.raises(BundleError) as raised:
            open_(path)
        assert raised.value.code == "E0611" and "--by-reference" in raised.value.help


def test_weights_in_the_bundle_beside_referenced_ones(tmp_path):
    path = tiny.loop_bundle(tmp_path / "bundle")
    far = tmp_path / "far.bin"
    far.write_bytes(bytes(8))
    entry = hash_file(far)
    references = {"weights/far.bin": Reference(entry.sha256, entry.size, str(far))}
    write_manifest(path, replace(open_(path).manifest, references=references))
    np.testing.assert_allclose(open_(path).sample([1]), tiny.expected([1], [0], [4]), rtol=1e-5, atol=1e-6)


def test_loops_nest_and_variables_keep_their_scope(tmp_path):
    path = tiny.host_bundle(tmp_path / "bundle")
    manifest = open_(path).manifest
    entry = manifest.programs[0]
    inner = entry.program[0]
    inner = replace(inner, noise={"row": Rows("n", 0, (3, 1))})
    outer = Loop("loop", 2, (inner,), carried=(("out", "out"),), index="outer_step")
    inputs = (*entry.inputs[:3], replace(entry.inputs[3], shape=(6, "B", 1, 2, 2)))
    inputs = (*inputs[:3], replace(inputs[3], source=RandomSource("normal", "step", 6)))
    entry = replace(entry, inputs=inputs, program=(outer,))
    write_manifest(path, replace(manifest, programs=(entry,)))
    calls = []
    samples = open_(path).sample([2], [5], progress=lambda *c: calls.append(c))
    x, rows = noise.normals([5], "x", tiny.SHAPE), noise.normals([5], "step", tiny.SHAPE, range(6))
    for half in (rows[:3], rows[3:]):
        x = tiny.expected([2], [5], [4], {"x": x, "n": half})
    np.testing.assert_allclose(samples, x, rtol=1e-5, atol=1e-6)
    assert calls[-1] == (6, 6) and len(calls) == 7


def test_several_step_counts_share_an_engine(tmp_path):
    path = tiny.host_bundle(tmp_path / "bundle")
    manifest = open_(path).manifest
    entry = manifest.programs[0]
    one = replace(entry.program[0], trip=1, tables={"a": (0.5,)}, noise={"row": Rows("first", 0, (1,))})
    first = replace(entry.inputs[3], name="first", shape=(1, "B", 1, 2, 2), source=RandomSource("normal", "step", 1))
    short = replace(entry, steps=1, inputs=(*entry.inputs[:3], first), program=(one,))
    write_manifest(path, replace(manifest, programs=(entry, short)))
    pipe = open_(path)
    assert pipe.steps == (3, 1) and len(pipe._engines) == 1
    x, n = noise.normals([0], "x", tiny.SHAPE), noise.normals([0], "step", tiny.SHAPE)
    np.testing.assert_allclose(pipe.sample([2], steps=1), 0.5 * x + tiny.BIAS + 0.24 + n, rtol=1e-5, atol=1e-6)
    assert len(pipe._engines) == 1
    with pytest.raises(BundleError, match="1, 3 steps, not in 7") as raised:
        pipe.sample([2], steps=7)
    assert raised.value.code == "E0609" and "sampler.steps=7" in raised.value.help


BAD = [
    ({"classes": [10]}, "E0608", "no class 10"),
    ({"classes": [0, -1]}, "E0608", "no class -1"),
    ({"classes": [0.5]}, "E0608", "integers"),
    ({"classes": [True]}, "E0608", "integers"),
    ({"classes": 3}, "E0608", "list of integers"),
    ({"classes": [[1]]}, "E0608", "a list of integers"),
    ({"classes": ["cat"]}, "E0608", "integers"),
    ({"classes": [[1], [1, 2]]}, "E0608", "not an array"),
    ({"guidance": 2.0, "settings": {"guidance": 2.0}}, "E0608", "`guidance` is given twice"),
    ({"seeds": [1]}, "E0608", "1 seeds for 2 samples"),
    ({"seeds": [1, -1]}, "E0608", "-1 is not"),
    ({"seeds": -1}, "E0608", "-1 is not"),
    ({"seeds": 2**64 - 1}, "E0608", "2\\^64"),
    ({"seeds": [1, 2**64]}, "E0608", "2\\^64"),
    ({"seeds": [1, 2.0]}, "E0608", "integers"),
    ({"seeds": 1.5}, "E0608", "integer"),
    ({"seeds": True}, "E0608", "integer"),
    ({"seeds": "12"}, "E0608", "integer"),
    ({"guidance": float("nan")}, "E0608", "finite"),
    ({"guidance": [1, float("inf")]}, "E0608", "finite"),
    ({"guidance": 1e39}, "E0608", "finite"),
    ({"guidance": [1, 2, 3]}, "E0608", "3 values of `guidance` for 2"),
    ({"guidance": "strong"}, "E0608", "number"),
    ({"classes": range(10**13)}, "E0608", "10000000000000 samples in one request"),
    ({"seeds": range(10**13)}, "E0608", "10000000000000 samples in one request"),
    ({"count": 10**13}, "E0608", "10000000000000 samples in one request"),
    ({"noise": [1]}, "E0608", "`noise` must be values by name"),
    ({"settings": 3}, "E0608", "`settings` must be numbers by name"),
    ({"conditions": 3}, "E0608", "`conditions` must be values by name"),
    ({"progress": 3}, "E0608", "must be a function"),
    ({"batch": 0}, "E0608", "batch"),
    ({"batch": 1.5}, "E0608", "batch"),
    ({"steps": 50}, "E0609", "3 steps"),
    ({"noise": {"z": np.zeros((2, 1, 2, 2))}}, "E0610", "no noise input `z`"),
    ({"noise": {"y": np.zeros(2)}}, "E0610", "no noise input `y`"),
    ({"noise": {"n": np.zeros((2, 1, 2, 2))}}, "E0610", "shape"),
    ({"noise": {"n": np.zeros((3, 2, 1, 2, 2), int)}}, "E0610", "type int64"),
    ({"noise": {"n": np.full((3, 2, 1, 2, 2), np.nan)}}, "E0610", "finite"),
]


@pytest.mark.parametrize(("change", "code", "message"), BAD)
def test_requests_that_do_not_fit_are_refused_with_a_mend(tmp_path, change, code, message):
    pipe = open_(tiny.loop_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=message) as raised:
        pipe.sample(**{"classes": [0, 1], "seeds": 0, **change})
    assert raised.value.code == code and raised.value.help


@pytest.mark.parametrize("count", [-1, 1.5, True, "2"])
def test_noise_of_no_number_of_samples_is_refused_with_a_mend(tmp_path, count):
    pipe = open_(tiny.loop_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match="number of samples") as raised:
        pipe.noise(0, count)
    assert raised.value.code == "E0608" and raised.value.help


@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        (None, {}, "E0601"),
        (3, {}, "E0601"),
        ("bundle", {"threads": -5}, "E0606"),
        ("bundle", {"threads": "x"}, "E0606"),
        ("bundle", {"threads": 10**9}, "E0606"),
    ],
)
def test_loading_with_wrong_arguments(tmp_path, path, options, code):
    tiny.loop_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError) as raised:
        load(tmp_path / path if isinstance(path, str) else path, "cpu", **options)
    assert raised.value.code == code and raised.value.help


def test_refusals_of_a_bundle_without_guidance(tmp_path):
    pipe = open_(tiny.token_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match="no setting `guidance`"):
        pipe.sample([0], guidance=2.0)
    with pytest.raises(BundleError, match=r"\[0, 1\]"):
        pipe.sample([0], noise={"u": np.full((4, 1), 1.5, np.float32)})


def test_devices_that_are_not_there(tmp_path):
    path = tiny.host_bundle(tmp_path / "bundle")
    for device in ("cuda", "tensorrt", "abacus"):
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and device != "abacus":
            continue
        with pytest.raises(BundleError) as raised:
            load(path, device=device)
        assert raised.value.code == "E0606" and raised.value.help


def test_engine_failures_are_told(tmp_path):
    path = tiny.host_bundle(tmp_path / "bundle")
    manifest = open_(path).manifest
    entry = manifest.programs[0]
    call = entry.program[0].body[0]

    (output,) = entry.outputs

    def with_(call=call, entry=entry, **changes):
        loop = replace(entry.program[0], body=(call,))
        write_manifest(path, replace(manifest, programs=(replace(entry, program=(loop,)),), **changes))
        return open_(path).sample([0])

    cases = [
        (lambda: with_(replace(call, inputs={"x": "out"})), "step.onnx takes"),
        (lambda: with_(replace(call, outputs={"x_next": "nothing"})), "returns \\['nothing'\\]"),
        (lambda: with_(replace(call, inputs=call.inputs | {"a": "out", "x": "a"})), "step.onnx failed"),
        (
            lambda: with_(
                entry=replace(entry, outputs=(replace(output, output=replace(output.output, shape=(1, 2, 3))),))
            ),
            "samples of shape",
        ),
    ]
    for run, message in cases:
        with pytest.raises(BundleError, match=message) as raised:
            run()
        assert raised.value.code == "E0607" and raised.value.help
    (path / "step.onnx").write_bytes(b"no ONNX")
    with pytest.raises(BundleError, match=r"step.onnx cannot be opened") as raised:
        with_(files={"step.onnx": hash_file(path / "step.onnx")})
    assert raised.value.code == "E0607"


def test_fractions_do_not_become_whole_numbers(tmp_path):
    path = tiny.host_bundle(tmp_path / "bundle")
    manifest = open_(path).manifest
    entry = manifest.programs[0]
    call = entry.program[0].body[0]
    call = replace(call, inputs=call.inputs | {"y": "a"})
    loop = replace(entry.program[0], body=(call,))
    write_manifest(path, replace(manifest, programs=(replace(entry, program=(loop,)),)))
    with pytest.raises(BundleError, match="takes int64, but got float64"):
        open_(path).sample([0])


@pytest.mark.parametrize("form", ["loop", "host"])
def test_warming_up_runs_every_engine_once_for_a_batch(form, tmp_path, monkeypatch):
    path = {"loop": tiny.loop_bundle, "host": tiny.host_bundle}[form](tmp_path / "bundle")
    pipe, runs = open_(path), []
    name = "sample.onnx" if form == "loop" else "step.onnx"
    monkeypatch.setattr(OrtEngine, "run", recorded(OrtEngine.run, runs))
    pipe.warm_up(4)
    assert runs == [(name, 4)]
    runs.clear()
    load(path, device="cpu", threads=1, batch=2)
    assert runs == [(name, 2)]
    for batch in (0, "2", True):
        with pytest.raises(BundleError, match=r"E0608.*a batch needs at least 1 sample"):
            pipe.warm_up(batch)
    with pytest.raises(BundleError, match="E0609"):
        pipe.warm_up(1, steps=77)


def recorded(run, runs):
    def run_recorded(self, inputs, *rest):
        runs.append((self.name, len(self.backend.array(inputs["x"]))))
        return run(self, inputs, *rest)

    return run_recorded


def test_only_numpy_and_the_engine_are_imported(tmp_path):
    root = Path(latentc_runtime.__file__).parent
    modules = [
        ".".join(("latentc_runtime", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(root.rglob("*.py"))
        # The server needs an extra, and imports it when it starts.
        if path.parent.name != "serve" or path.name in ("__init__.py", "options.py")
    ]
    assert "latentc_runtime.backends.onnxruntime" in modules and len(modules) > 10
    bundle = tiny.loop_bundle(tmp_path / "bundle")
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
assert "onnxruntime" not in sys.modules, "the engine is imported before it is needed"
import latentc_runtime
latentc_runtime.load({str(bundle)!r}, device="cpu", threads=1).sample([1])
heavy = {{"torch", "onnx", "pydantic", "latentc", "yaml", "jinja2", "networkx", "typer", "PIL"}}
found = heavy & {{name.split(".")[0] for name in sys.modules}}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_a_program_reads_and_reports():
    call = EngineCall("engine", "a.onnx", {}, {"out": "y"})
    from latentc_runtime.program import ticks, variables_read

    assert ticks((call, call)) == 1
    rows = EngineCall("engine", "a.onnx", {"x": "x", "n": "n"}, {"out": "y"})
    assert variables_read((Loop("loop", 2, (rows,), noise={"n": Rows("n", 0, (1,))}),)) == {"x"}
    assert variables_read((Loop("loop", 2, (rows,)),)) == {"x", "n"}
    nest = Loop("loop", 4, (call, Loop("loop", 3, (call,)), Loop("loop", 2, (call,))))
    assert ticks((call, nest)) == 20


def test_a_machine_without_the_engine(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match="ONNX Runtime is missing") as raised:
        load(tiny.host_bundle(tmp_path / "bundle"))
    assert raised.value.code == "E0606" and "latentc[cpu]" in raised.value.help


class NoGpu:
    """ONNX Runtime as it is on a machine that has its CUDA build and no GPU."""

    def __init__(self, ort):
        self.ort = ort

    def __getattr__(self, name):
        return getattr(self.ort, name)

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):
        return self.ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_a_gpu_that_does_not_work(tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setitem(sys.modules, "onnxruntime", NoGpu(onnxruntime))
    path = tiny.host_bundle(tmp_path / "bundle")
    pipe = load(path)
    assert pipe.device == "cpu"
    np.testing.assert_allclose(pipe.sample([1]), tiny.expected([1], [0], [4]), rtol=1e-5, atol=1e-6)
    with pytest.raises(BundleError, match="no working GPU"):
        load(path, device="cuda")


def test_want_of_memory_is_told(tmp_path, monkeypatch):
    pipe = open_(tiny.host_bundle(tmp_path / "bundle"))

    class Full:
        def __getattr__(self, name):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 8")

    monkeypatch.setattr(pipe._engines["step.onnx"].session, "io_binding", Full)
    with pytest.raises(BundleError, match=r"step\.onnx failed") as raised:
        pipe.sample([1])
    assert "smaller `batch`" in raised.value.help


class Adds:
    """An engine: y = x + amount; `seen` are the inputs of its runs."""

    def __init__(self, amount):
        self.amount, self.seen = amount, []

    def run(self, inputs, outputs, shared=None):
        self.seen.append(inputs["x"])
        return {"y": inputs["x"] + self.amount}


def step_then(*rest):
    """A loop of three steps that add 1 to `x`, and statements after it."""
    step = EngineCall("engine", "step", {"x": "x"}, {"new": "y"})
    return (Loop("loop", 3, (step,), carried=(("x", "new"),)), *rest)


def watched(program):
    """(result, outputs that were seen between the steps) of a program that starts with x = 0; all engines by name."""
    engines, seen = {"step": Adds(1), "decode": Adds(100)}, []

    def watch(so_far):
        seen.append(so_far())

    variables = run_program(program, {"x": 0}, engines.__getitem__, lambda name, i: 0, lambda: None, watch)
    return variables, seen, engines


def test_states_between_the_steps_go_through_the_rest_of_the_program():
    decode = EngineCall("engine", "decode", {"x": "x"}, {"out": "y"})
    variables, seen, engines = watched(step_then(decode))
    assert [state["out"] for state in seen] == [101, 102] and variables["out"] == 103
    assert engines["decode"].seen == [1, 2, 3] and engines["step"].seen == [0, 1, 2]


def test_states_before_another_loop_are_not_seen():
    """They would need all of its steps."""
    variables, seen, _ = watched(step_then(*step_then()))
    assert [state["x"] for state in seen] == [4, 5] and variables["x"] == 6


def test_states_of_nested_loops_are_those_of_the_outer_one():
    (inner,) = step_then()
    variables, seen, _ = watched((Loop("loop", 2, (inner,), carried=(("x", "x"),)),))
    assert [state["x"] for state in seen] == [3] and variables["x"] == 6
