"""Bundles on OpenVINO: the programs that ONNX Runtime runs, references, and refusals that say what to do."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_bundles as tiny

from latentc_runtime import BundleError, load, noise
from latentc_runtime.backends import open_backend
from latentc_runtime.hashes import hash_file
from latentc_runtime.manifest import Reference
from latentc_runtime.manifest_json import bytes_from_manifest, manifest_from_bytes

pytest.importorskip("openvino")

CLASSES, SEEDS, SCALES = [3, 1, 9, 0, 3], [7, 2**63, 7, 0, 2**64 - 1], [1, 2, 3, 4, 5]
MAKE = {"loop": tiny.loop_bundle, "host": tiny.host_bundle}


def open_(path, **options):
    return load(path, threads=1, engine="openvino", **options)


@pytest.mark.parametrize("form", MAKE)
@pytest.mark.parametrize("batch", [None, 2])
def test_samples_are_what_numpy_gives(form, batch, tmp_path):
    pipe = open_(MAKE[form](tmp_path / "bundle"))
    expected = tiny.expected(CLASSES, SEEDS, SCALES)
    for _ in range(2):  # a second run finds nothing of the first
        samples = pipe.sample(CLASSES, SEEDS, guidance=SCALES, batch=batch)
        np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-6)
    assert pipe.device == "cpu"


@pytest.mark.parametrize("form", MAKE)
def test_threads_share_a_pipeline(form, tmp_path):
    pipe = open_(MAKE[form](tmp_path / "bundle"))

    def sampled(seed):
        return pipe.sample([3, 1], seed, guidance=2.0)

    with ThreadPoolExecutor(4) as pool:
        for seed, samples in enumerate(pool.map(sampled, range(40))):
            expected = tiny.expected([3, 1], [seed, seed + 1], [2.0, 2.0])
            np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-6)
    # A callback may sample from the pipeline that calls it.
    pipe.sample([3], 0, progress=lambda done, total: sampled(1))


def test_tokens(tmp_path):
    made = open_(tiny.token_bundle(tmp_path / "bundle")).sample(CLASSES, SEEDS)
    u = noise.uniforms(SEEDS, "token", (), range(tiny.TOKENS))
    levels = (np.floor(u.T * tiny.LEVELS).astype(int) + np.array(CLASSES)[:, None]) % tiny.LEVELS
    np.testing.assert_array_equal(made, levels)


def test_the_manifest_says_which_engine_runs_it(tmp_path, monkeypatch):
    folder = tiny.loop_bundle(tmp_path / "bundle")
    manifest = manifest_from_bytes((folder / "manifest.json").read_bytes())
    assert (manifest.engine, manifest.precision) == ("onnxruntime", "fp32")
    tiny.write(folder, manifest.programs, manifest.output, list(manifest.files))
    assert type(load(folder).backend).__name__ == "OnnxRuntime"
    assert type(open_(folder).backend).__name__ == "OpenVino"


def test_manifests_without_an_engine_are_of_onnx_runtime(tmp_path):
    manifest = manifest_from_bytes((tiny.loop_bundle(tmp_path / "bundle") / "manifest.json").read_bytes())
    document = json.loads(bytes_from_manifest(manifest))
    assert document["engine"] == "onnxruntime" and document["precision"] == "fp32"


def test_referenced_weights_are_read_where_they_lie(tmp_path):
    weights = tmp_path / "elsewhere" / "model.bin"
    tiny.write_weights(weights)
    entry = hash_file(weights)
    references = {"weights/tiny.bin": Reference(entry.sha256, entry.size, str(weights))}
    pipe = open_(tiny.loop_bundle(tmp_path / "bundle", references))
    samples = pipe.sample(CLASSES, SEEDS, guidance=SCALES)
    np.testing.assert_allclose(samples, tiny.expected(CLASSES, SEEDS, SCALES), rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "bundle").iterdir()) == ["manifest.json", "sample.onnx"]


def test_values_outlive_the_next_run(tmp_path):
    tiny.host_bundle(tmp_path / "bundle")
    backend = open_backend("cpu", 1, "openvino")
    engine = backend.engine(tmp_path / "bundle" / "step.onnx", {})
    feed = {"x": np.ones((2, *tiny.SHAPE)), "y": np.zeros(2), "w": np.zeros(2), "a": np.asarray(2.0)}
    first = engine.run({**feed, "noise": np.zeros((2, *tiny.SHAPE))}, ["next"])["next"]
    kept = np.array(backend.array(first))
    second = engine.run({**feed, "x": first, "noise": np.ones((2, *tiny.SHAPE))}, ["next"])["next"]
    np.testing.assert_array_equal(backend.array(first), kept)
    np.testing.assert_allclose(backend.array(second), 2 * kept + tiny.BIAS + 1, rtol=1e-6)


def test_engines_are_compiled_for_the_shapes_of_a_run(tmp_path):
    """Once for each batch; the two used last are kept, and what they wrote is theirs until nobody holds it."""
    tiny.host_bundle(tmp_path / "bundle")
    backend = open_backend("cpu", 1, "openvino")
    engine = backend.engine(tmp_path / "bundle" / "step.onnx", {})

    def step(batch, x):
        noise = np.zeros((batch, *tiny.SHAPE))
        feed = {"x": x, "y": np.zeros(batch), "w": np.zeros(batch), "a": np.asarray(2.0), "noise": noise}
        return engine.run(feed, ["next"])["next"]

    made = {}
    for batch in (1, 2, 1, 3, 1):
        step(batch, np.ones((batch, *tiny.SHAPE)))
        made.setdefault(batch, engine.compiled[-1])
        assert engine.compiled[-1] is made[batch]
    assert len(engine.compiled) == 2 and made[2] not in engine.compiled
    state = np.ones((1, *tiny.SHAPE), np.float32)
    expected, places = state, set()
    for _ in range(4):  # a state and the next take turns in two tensors
        state, expected = step(1, state), 2 * expected + tiny.BIAS
        np.testing.assert_allclose(backend.array(state), expected, rtol=1e-6)
        places.add(backend.array(state).ctypes.data)
    assert len(places) == 2
    assert backend.spent > 0


def test_what_an_engine_already_has_is_not_given_again(tmp_path, monkeypatch):
    tiny.host_bundle(tmp_path / "bundle")
    backend = open_backend("cpu", 1, "openvino")
    engine = backend.engine(tmp_path / "bundle" / "step.onnx", {})
    noise = backend.value(np.zeros((1, *tiny.SHAPE), np.float32))
    fixed = {"y": np.zeros(1), "w": np.zeros(1), "noise": noise}
    state = engine.run({**fixed, "x": np.ones((1, *tiny.SHAPE)), "a": np.asarray(2.0)}, ["next"])["next"]
    request, given = engine.compiled[-1].request, []

    class Spy:
        def set_tensor(self, name, tensor):
            given.append(name)
            request.set_tensor(name, tensor)

        def infer(self, **options):
            return request.infer(**options)

    monkeypatch.setattr(engine.compiled[-1], "request", Spy())
    expected = backend.array(state).copy()
    for scale in (3.0, 0.5):  # arrays are copied to where the engine looks, states take turns
        given.clear()
        state = engine.run({**fixed, "x": state, "a": np.asarray(scale)}, ["next"])["next"]
        expected = scale * expected + tiny.BIAS
        np.testing.assert_allclose(backend.array(state), expected, rtol=1e-6)
        assert given == ["x", "next"]
    for value in (1.0, 2.0, 3.0):  # another tensor in the place of one that is gone, perhaps at its very address
        x = backend.value(np.full((1, *tiny.SHAPE), value, np.float32))
        made = engine.run({**fixed, "x": x, "a": np.asarray(1.0)}, ["next"])["next"]
        np.testing.assert_allclose(backend.array(made), (value + tiny.BIAS)[None], rtol=1e-6)
        del x


def test_a_fraction_for_a_whole_number_is_refused(tmp_path):
    tiny.token_bundle(tmp_path / "bundle")
    engine = open_backend("cpu", 1, "openvino").engine(tmp_path / "bundle" / "sample.onnx", {})
    feed = {"y": np.asarray([0.5]), "u": np.zeros((tiny.TOKENS, 1))}
    with pytest.raises(BundleError, match=r"E0607.*got float64 values"):
        engine.run(feed, ["tokens"])


def test_bfloat16_is_asked_for_and_is_coarser(tmp_path):
    """The hint arrives: a product of matrices is no longer exact, unless the CPU has no bfloat16."""
    onnx = pytest.importorskip("onnx")
    n, (rows, inner) = onnx.helper.make_node, (64, 512)
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inner), (inner, rows)))
    place = tiny.value("x", tiny.F, rows, inner), tiny.value("out", tiny.F, rows, rows)
    tiny.save(tmp_path / "product.onnx", [n("MatMul", ["x", "w"], ["out"])], [place[0]], [place[1]],
              [tiny.constant("w", w)])  # fmt: skip
    error = {}
    for precision in ("fp32", "bf16"):
        backend = open_backend("cpu", 1, "openvino", precision)
        out = backend.array(backend.engine(tmp_path / "product.onnx", {}).run({"x": x}, ["out"])["out"])
        error[precision] = np.abs(out - x @ w).max() / np.abs(x @ w).max()
    assert error["fp32"] < 1e-6 and error["bf16"] < 2e-2
    if "BF16" in backend.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert error["bf16"] > 1e-4


# ---- refusals


def test_a_gpu_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"E0606.*OpenVINO runs on the CPU here, not on 'cuda'"):
        open_(tiny.loop_bundle(tmp_path / "bundle"), device="cuda")


def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"E0606.*unknown engine 'openvono'"):
        load(tiny.loop_bundle(tmp_path / "bundle"), engine="openvono")


def test_a_missing_openvino_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BundleError, match="OpenVINO is missing") as caught:
        open_(tiny.loop_bundle(tmp_path / "bundle"))
    assert caught.value.code == "E0606" and 'pip install "latentc[openvino]"' in caught.value.help


def test_a_damaged_graph_is_refused(tmp_path):
    folder = tiny.loop_bundle(tmp_path / "bundle")
    graph = folder / "sample.onnx"
    graph.write_bytes(graph.read_bytes()[:-200])
    with pytest.raises(BundleError, match=r"E0604"):
        open_(folder)
    with pytest.raises(BundleError, match=r"E0607.*sample.onnx cannot be opened") as caught:
        open_backend("cpu", 1, "openvino").engine(graph, {})
    assert "OpenVINO" in caught.value.help and "compile the bundle again" in caught.value.help


def test_missing_weights_are_refused(tmp_path):
    folder = tiny.loop_bundle(tmp_path / "bundle")
    (folder / "weights" / "tiny.bin").unlink()
    with pytest.raises(BundleError, match=r"E0604"):
        open_(folder)
    with pytest.raises(BundleError, match=r"E0607.*sample.onnx cannot be opened"):
        open_backend("cpu", 1, "openvino").engine(folder / "sample.onnx", {})


def test_other_inputs_than_the_graph_has_are_refused(tmp_path):
    tiny.host_bundle(tmp_path / "bundle")
    engine = open_backend("cpu", 1, "openvino").engine(tmp_path / "bundle" / "step.onnx", {})
    with pytest.raises(BundleError, match=r"E0607.*the manifest says it takes"):
        engine.run({"x": np.zeros((1, *tiny.SHAPE))}, ["next"])
    feed = {"x": np.zeros((1, 7, 7, 7)), "y": [0], "w": [0], "a": 1, "noise": np.zeros((1, 7, 7, 7))}
    with pytest.raises(BundleError, match=r"E0607.*step.onnx failed"):
        engine.run({name: np.asarray(value) for name, value in feed.items()}, ["next"])


def test_a_signal_after_pipelines_have_gone_is_handled(tmp_path):
    """OpenVINO's cores, freed in another order than created, leave handlers a stack that is no longer mapped."""
    code = (
        "import os, signal, sys\n"
        "from latentc_runtime import load\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "pipes = [load(sys.argv[1], threads=1, engine='openvino') for _ in range(2)]\n"
        "for pipe in pipes:\n"
        "    pipe.sample([3], 0)\n"
        "del pipe\n"
        "while pipes:\n"
        "    del pipes[0]\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    bundle = str(tiny.host_bundle(tmp_path / "bundle"))
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
