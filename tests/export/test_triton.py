"""Triton repositories: read by the real protobuf, run by a small stand-in of the server, equal to the runtime.

The stand-in does what Triton does with a configuration: it concatenates the requests of a batch along the first axis,
reshapes scalars, runs an ensemble's steps, and gives each request its rows.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from google.protobuf import json_format, text_format
from test_bundle import SYSTEMS, TINY_DIT, lowered_of, make, stored_weights
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

import latentc_runtime
from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.export import triton_models
from latentc.export.triton import repository_from_bundle
from latentc.files import shipped
from latentc_runtime.bundle import open_bundle
from latentc_runtime.hashes import hash_file
from latentc_runtime.manifest import Plan

Arrays = dict[str, np.ndarray]


# ---- the stand-in


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.name, self.as_numpy = lambda: name, lambda: array

    @classmethod
    def from_dlpack(cls, name: str, array: np.ndarray) -> Tensor:
        return cls(name, array)

    def to_dlpack(self) -> np.ndarray:
        return self.as_numpy()


class Response:
    def __init__(self, output_tensors: Sequence[Tensor], error: Any = None) -> None:
        self.error = error
        self.arrays = {t.name(): t.as_numpy() for t in output_tensors}


class TritonError(RuntimeError):
    INTERNAL, INVALID_ARG = 1, 3

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


def stub() -> types.ModuleType:
    module: Any = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, TritonError
    module.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name() == name), None)
    return module


class Server:
    """Serves the models of a repository."""

    def __init__(self, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.repository, self.monkeypatch = repository, monkeypatch
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub())
        self.configs = {}
        for path in repository.glob("*/config.pbtxt"):
            config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            assert config.name == path.parent.name and (path.parent / "1").is_dir()
            self.configs[config.name] = config
        self.opened: dict[str, Any] = {}

    def infer(self, name: str, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
        """The answers to requests that share a batch."""
        config = self.configs[name]
        assert sum(len(next(iter(r.values()))) for r in requests) <= config.max_batch_size
        for request in requests:
            self.check(config.input, request)
        if config.platform == "ensemble":
            answers = self.ensemble(config, requests)
        elif config.backend == "python":
            answers = self.python(config, requests)
        else:
            answers = self.engine(config, requests)
        for answer in answers:
            if not isinstance(answer, Exception):
                self.check(config.output, answer)
        return answers

    def check(self, declared: Any, arrays: Arrays) -> None:
        known = {t.name: t for t in declared}
        assert set(arrays) <= set(known)
        assert all(t.name in arrays or getattr(t, "optional", False) for t in declared)
        for name, array in arrays.items():
            wanted = triton_to_np_dtype(model_config_pb2.DataType.Name(known[name].data_type).removeprefix("TYPE_"))
            sizes = zip(array.shape[1:], known[name].dims, strict=True)
            assert array.dtype == wanted and all(size == dim or dim == -1 for size, dim in sizes), name

    def ensemble(self, config: Any, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
        scopes: list[Any] = [dict(r) for r in requests]
        for step in config.ensemble_scheduling.step:
            assert self.configs[step.model_name].max_batch_size >= config.max_batch_size
            live = [s for s in scopes if not isinstance(s, Exception)]
            feeds = [{inner: s[outer] for inner, outer in step.input_map.items() if outer in s} for s in live]
            answers = iter(self.infer(step.model_name, feeds) if feeds else [])
            for i, scope in enumerate(scopes):
                if isinstance(scope, Exception):
                    continue
                answer = next(answers)
                if isinstance(answer, Exception):
                    scopes[i] = answer
                else:
                    scope.update({outer: answer[inner] for inner, outer in step.output_map.items()})
        names = [t.name for t in config.output]
        return [s if isinstance(s, Exception) else {n: s[n] for n in names} for s in scopes]

    def python(self, config: Any, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
        if config.name not in self.opened:
            self.opened[config.name] = self.python_model(config)
        given = [[Tensor(n, np.ascontiguousarray(a)) for n, a in r.items()] for r in requests]
        responses = self.opened[config.name].execute(given)
        assert len(responses) == len(requests)
        return [r.error or r.arrays for r in responses]

    def python_model(self, config: Any) -> Any:
        folder = self.repository / config.name / "1"
        self.monkeypatch.setattr(sys, "path", list(sys.path))
        self.monkeypatch.delitem(sys.modules, "served", raising=False)
        spec = importlib.util.spec_from_file_location(f"served_{config.name}", folder / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        text = json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True))
        model.initialize({"model_config": text, "model_instance_kind": "CPU", "model_instance_device_id": "0"})
        return model

    def engine(self, config: Any, requests: Sequence[Arrays]) -> list[Arrays | Exception]:
        assert config.backend in ("onnxruntime", "openvino")
        if config.name not in self.opened:
            path = self.repository / config.name / "1" / config.default_model_filename
            path = path / "model.onnx" if path.is_dir() else path
            self.opened[config.name] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        session = self.opened[config.name]
        assert {i.name for i in session.get_inputs()} == {i.name for i in config.input}
        feed = {}
        for i in config.input:
            array = np.concatenate([r[i.name] for r in requests])
            feed[i.name] = array.reshape(len(array), *i.reshape.shape) if i.HasField("reshape") else array
        names = [o.name for o in config.output]
        outputs = session.run(names, feed)
        for place, declared in enumerate(config.output):
            if declared.HasField("reshape"):
                assert outputs[place].shape[1:] == tuple(declared.reshape.shape)
                outputs[place] = outputs[place].reshape(-1, *declared.dims)
        ends = np.cumsum([len(next(iter(r.values()))) for r in requests])[:-1]
        parts = [np.split(o, ends) for o in outputs]
        return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]


def ask(
    classes: Sequence[int], seeds: Sequence[int], values: Sequence[float] | None = None, name: str = "guidance"
) -> Arrays:
    scale = {} if values is None else {name: np.array(values, np.float32)[:, None]}
    return {"classes": np.array(classes, np.int64)[:, None], "seeds": np.array(seeds, np.uint64)[:, None], **scale}


# ---- what is served


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder, made = tmp_path_factory.mktemp("triton"), {}

    def bundle(system: str, form: str, *overrides: str) -> Path:
        key = (system, form, *overrides)
        if key not in made:
            place = folder / str(len(made))
            place.mkdir()
            spec, lowered = lowered_of(*(SYSTEMS | GENERATOR)[system], *overrides)
            make(lowered, spec, stored_weights(lowered, place), place / "b", form=form, max_batch=8)
            made[key] = place / "b"
        return made[key]

    yield bundle


GENERATOR = {"generator": ("digits_biggan", "sampler.truncation=2.0")}

CASES = [
    ("ddim", "unroll", "ensemble"),
    ("ddpm", "loop", "ensemble"),  # noise a step
    ("tokens", "loop", "ensemble"),  # a uniform a token
    ("ddpm", "loop", "sampler"),
    ("ddim", "host", "sampler"),
    ("generator", "unroll", "ensemble"),
    ("generator", "unroll", "sampler"),
]


@pytest.mark.parametrize(("system", "form", "kind"), CASES)
def test_a_batch_of_requests_gives_what_the_runtime_gives_each(
    bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, form: str, kind: str
) -> None:
    bundle = bundles(system, form)
    made = api.deploy_triton(bundle, tmp_path / "repo", kind=kind)  # type: ignore[arg-type]
    server = Server(tmp_path / "repo", monkeypatch)
    assert set(server.configs) == set(made.models) and made.kind == kind
    pipe = latentc_runtime.load(bundle, device="cpu")
    known = [setting.name for setting in pipe.manifest.settings]
    name = known[0] if known else ""
    scales = [[0.5], [3.0, 4.5], None] if known else [None] * 3
    asked = zip([[3], [1, 0], [5]], [[7], [2**64 - 1, 7], [11]], scales, strict=True)
    requests = [ask(classes, seeds, values, name) for classes, seeds, values in asked]
    wrong = ask([99], [0])
    answers = server.infer(made.model, [*requests[:2], wrong, *requests[2:]])
    # One request in the batch is refused in words; the others do not notice.
    assert isinstance(answers[2], TritonError) and "no class 99" in str(answers[2])
    assert answers[2].code == TritonError.INVALID_ARG
    for request, answer in zip(requests, [a for a in answers if not isinstance(a, Exception)], strict=True):
        alone = pipe.sample(**{name: array[:, 0] for name, array in request.items()})
        if alone.dtype.kind == "i":
            np.testing.assert_array_equal(answer["samples"], alone)
        else:
            assert np.abs(answer["samples"] - alone).max() <= 1e-5 * np.abs(alone).max()
        np.testing.assert_array_equal(answer["images"], pipe.images(answer["samples"]))
    # Control: neither seed nor scale is lost on the way.
    other = server.infer(made.model, [ask([3], [8], scales[0], name)])[0]
    assert not np.array_equal(other["samples"], answers[0]["samples"])
    if known:
        other = server.infer(made.model, [ask([3], [7], [3.5], name)])[0]
        assert not np.array_equal(other["samples"], answers[0]["samples"])


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Triton's protocol in front of the stand-in."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ModelInfer(self, request: Any, context: Any) -> Any:
        pairs = zip(request.inputs, request.raw_input_contents, strict=True)
        given = {i.name: np.frombuffer(raw, triton_to_np_dtype(i.datatype)).reshape(i.shape) for i, raw in pairs}
        (answer,) = self.server.infer(request.model_name, [given])
        reply = service_pb2.ModelInferResponse()
        for name, array in answer.items():
            reply.outputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            reply.raw_output_contents.append(array.tobytes())
        return reply


def test_the_client_of_the_documentation(bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundles("ddim", "loop")
    api.deploy_triton(bundle, tmp_path / "repo", name="digits")
    grpc_server = grpc.server(ThreadPoolExecutor(1))
    service = Service(Server(tmp_path / "repo", monkeypatch))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, grpc_server)
    port = grpc_server.add_insecure_port("localhost:0")
    grpc_server.start()
    page = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
    program = page.split("```python\n")[1].split("```")[0].replace("8001", str(port))
    scope: dict[str, Any] = {}
    try:
        exec(program, scope)
    finally:
        grpc_server.stop(None).wait()
    pipe = latentc_runtime.load(bundle, device="cpu")
    want = pipe.images(pipe.sample([3, 7], [10, 11], guidance=[2.0, 4.0]))
    assert np.abs(scope["pictures"].astype(int) - want).max() <= 1


def test_the_configuration_says_what_was_asked_for(bundles: Any, tmp_path: Path) -> None:
    made = api.deploy_triton(
        bundles("ddpm", "loop"), tmp_path / "r", name="a/b c", instances=3, device="cuda", delay=7, threads=2
    )
    assert made.model == "a_b_c" and made.models == ("a_b_c", "a_b_c_noise", "a_b_c_engine", "a_b_c_images")
    text = (tmp_path / "r/a_b_c_engine/config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.backend == "onnxruntime" and config.max_batch_size == 8
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    (group,) = config.instance_group
    assert group.count == 3 and group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    noise = next(i for i in config.input if i.name == "noise_by_sample")
    assert list(noise.dims) == [4, 1, 8, 8]


def test_names_of_a_bundle_are_no_configuration() -> None:
    evil = 'x" }\nmax_batch_size: 9'
    model = triton_models.Model("m", evil, 4, [triton_models.Tensor(evil, "TYPE_FP32")], [], backend="python")
    config = text_format.Parse(triton_models.config_text(model), model_config_pb2.ModelConfig())
    assert config.max_batch_size == 4 and config.input[0].name == evil


def test_auto_says_why(bundles: Any, tmp_path: Path) -> None:
    deploy = api.deploy_triton
    assert deploy(bundles("ddim", "loop"), tmp_path / "a").kind == "ensemble"
    host = deploy(bundles("ddim", "host"), tmp_path / "b")
    assert host.kind == "sampler" and "host" in host.why
    bf16 = bundles("ddim", "loop", "target.engine=openvino", "target.precision=bf16")
    assert deploy(bf16, tmp_path / "c").kind == "sampler"
    assert deploy(bf16, tmp_path / "d", kind="ensemble").kind == "ensemble"
    fp32 = bundles("ddim", "loop", "target.engine=openvino")
    for bundle, words in ((fp32, "compute in fp32"), (bundles("ddim", "host"), "host")):
        with pytest.raises(DiagnosticError, match=f"E0507.*{words}"):
            deploy(bundle, tmp_path / "e", kind="ensemble")
    assert not (tmp_path / "e").exists()


def test_plans_by_capability(bundles: Any, tmp_path: Path) -> None:
    opened = open_bundle(bundles("ddim", "loop"))
    for name in ("sample.sm89.plan", "sample.sm100.plan"):
        (opened.folder / name).write_bytes(name.encode())
    plans = [
        Plan("sample.onnx", f"sample.{cc}.plan", "tensorrt", "11.4.0", cc, "fp16", ((1, 2, 8),))
        for cc in ("sm89", "sm100")
    ]
    files = {**opened.manifest.files, **{plan.plan: hash_file(opened.path(plan.plan)) for plan in plans}}
    bundle = replace(opened, manifest=replace(opened.manifest, engine="tensorrt", plans=tuple(plans), files=files))
    made = repository_from_bundle(bundle, bundle.manifest.programs[0], tmp_path / "r")
    engine = tmp_path / "r" / f"{made.model}_engine"
    config = text_format.Parse((engine / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert dict(config.cc_model_filenames) == {"8.9": "sample.sm89.plan", "10.0": "sample.sm100.plan"}
    assert sorted(p.name for p in (engine / "1").iterdir()) == ["sample.sm100.plan", "sample.sm89.plan"]
    stripped = [replace(plan, stripped=True) for plan in plans]
    bare = replace(bundle, manifest=replace(bundle.manifest, plans=tuple(stripped)))
    assert "no weights" in repository_from_bundle(bare, bare.manifest.programs[0], tmp_path / "t").why
    rtx = replace(bundle, manifest=replace(bundle.manifest, engine="tensorrt-rtx"))
    assert "no backend" in repository_from_bundle(rtx, rtx.manifest.programs[0], tmp_path / "s").why


def test_what_is_served_stands_alone(bundles: Any, tmp_path: Path) -> None:
    """Without latentc on the path: numpy, ONNX Runtime, and what lies in the repository."""
    api.deploy_triton(bundles("ddim", "host"), tmp_path / "repo")
    program = """
        import json, sys, types
        import numpy as np
        class Tensor:
            def __init__(self, name, array): self.name, self.as_numpy = lambda: name, lambda: array
            to_dlpack = lambda self: self
            from_dlpack = staticmethod(lambda name, tensor: tensor)
        utils = types.ModuleType("triton_python_backend_utils")
        utils.Tensor, utils.TritonError = Tensor, RuntimeError
        utils.InferenceResponse = lambda output_tensors: {t.name(): t.as_numpy() for t in output_tensors}
        utils.get_input_tensor_by_name = lambda request, name: next((t for t in request if t.name() == name), None)
        sys.modules["triton_python_backend_utils"] = utils
        sys.path = [p for p in sys.path if not p.endswith(("/compiler", "/runtime"))]
        sys.path.insert(0, sys.argv[1])
        model = __import__("1.model").model.TritonPythonModel()
        named = {"program": {"string_value": "sample"}, "steps": {"string_value": "4"}}
        config = {"parameters": named, "output": [{"name": "samples"}]}
        model.initialize({"model_config": json.dumps(config), "model_instance_kind": "CPU"})
        request = [Tensor("classes", np.array([[3]])), Tensor("seeds", np.array([[7]], np.uint64))]
        (response,) = model.execute([request])
        assert sys.modules["latentc_runtime"].__file__.startswith(sys.argv[1]), sys.modules["latentc_runtime"].__file__
        assert not {"latentc", "onnx", "torch"} & set(sys.modules)
        np.save(sys.argv[2], response["samples"])
    """
    model = tmp_path / "repo" / open_bundle(bundles("ddim", "host")).manifest.name
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(program), str(model), str(tmp_path / "out.npy")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    want = latentc_runtime.load(bundles("ddim", "host"), device="cpu").sample([3], [7])
    assert np.abs(np.load(tmp_path / "out.npy") - want).max() <= 1e-6


def test_errors_have_the_codes_of_servers_that_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub())
    place = shipped.folder("templates") / "triton/served.py"
    spec = importlib.util.spec_from_file_location("served_codes", place)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(served := importlib.util.module_from_spec(spec))
    codes = {"E0608": 3, "E0609": 3, "E0610": 3, "E0607": 1, "E0612": 1}
    for code, wanted in codes.items():
        assert served.refusal(latentc_runtime.BundleError(code, "it failed")).error.code == wanted
    monkeypatch.setattr(served.triton, "TritonError", RuntimeError)  # of older servers
    assert "it failed" in str(served.refusal(latentc_runtime.BundleError("E0608", "it failed")).error)


def test_repositories_hold_of_the_runtime_what_triton_uses(bundles: Any, tmp_path: Path) -> None:
    """Neither the server with its page nor its client; caches neither."""
    for form in ("loop", "host"):
        api.deploy_triton(bundles("ddim", form), tmp_path / form)
        copies = list((tmp_path / form).rglob("latentc_runtime"))
        assert copies
        for copy in copies:
            assert not {"serve", "client.py"} & {path.name for path in copy.iterdir()}
            assert {"media", "backends", "pipeline.py"} <= {path.name for path in copy.iterdir()}
            assert not list(copy.rglob("__pycache__")) and not list(copy.rglob("*.js"))


def test_referenced_weights_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, lowered = lowered_of("digits_dit", *TINY_DIT, "sampler.steps=4")
    make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", by_reference=True, max_batch=4)
    want = latentc_runtime.load(tmp_path / "b", device="cpu").sample([3], [7])
    for kind in ("ensemble", "sampler"):
        api.deploy_triton(tmp_path / "b", tmp_path / kind, kind=kind)  # type: ignore[arg-type]
    (tmp_path / "w.safetensors").unlink()
    for kind in ("ensemble", "sampler"):
        (answer,) = Server(tmp_path / kind, monkeypatch).infer(spec.name, [ask([3], [7])])
        assert np.abs(answer["samples"] - want).max() <= 1e-6


def test_the_place_of_a_repository(bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundles("ddim", "loop")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(DiagnosticError, match=r"E0502.*not a Triton repository"):
        api.deploy_triton(bundle, tmp_path / "mine")
    with pytest.raises(DiagnosticError, match="E0502"):
        api.deploy_triton(bundle, bundle)  # a bundle is no repository either
    with pytest.raises(DiagnosticError, match="E0609"):
        api.deploy_triton(bundle, tmp_path / "repo", steps=5)
    with pytest.raises(DiagnosticError, match="E0601"):
        api.deploy_triton(tmp_path / "mine", tmp_path / "repo")
    api.deploy_triton(bundle, tmp_path / "repo", name="old")
    api.deploy_triton(bundle, tmp_path / "repo", name="new")
    assert not (tmp_path / "repo/old").exists() and (tmp_path / "repo/new").exists()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latentc.export.triton.copy_file", full)
    with pytest.raises(DiagnosticError, match=r"E0501.*No space"):
        api.deploy_triton(bundle, tmp_path / "repo", name="newer")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "repo"]
    assert (tmp_path / "repo/new").exists()
