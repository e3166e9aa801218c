"""TensorRT-RTX plans of tiny systems, really built, without a GPU; what cannot be built is said and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx_runs import weights_of
from test_bundle import stored_weights

import latentc_runtime
from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.export import plan_cache, plans
from latentc.export.bundle import bundle_from_lowered
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec, resolved_yaml
from latentc_runtime.backends import open_backend
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest_json import manifest_from_bytes

DIT = ("digits_dit", "backbone.width=64", "backbone.depth=2", "sampler.steps=6")
SMALL = (*DIT, "backbone.depth=1", "sampler.steps=2")
TOKENS = ("digits_llamagen", "backbone.depth=2")
IMAGES = ["data.shape=[3, 16, 16]", "data.classes=3", "backbone.width=8", "backbone.channel_multipliers=[2, 2, 1]"]
GENERATOR = ("biggan", *IMAGES, "backbone.attention=[8]", "backbone.latent_dim=6", "backbone.embedding=4")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("polygraphy")


def compiled(tmp_path: Path, system: tuple[str, ...], *overrides: str, **options: Any) -> Any:
    given = ["target.engine=tensorrt-rtx", "target.capabilities=[sm89]", *system[1:], *overrides]
    spec = load_spec(system[0], None, given)
    lowered = lower(spec)
    weights = stored_weights(lowered, tmp_path)
    return bundle_from_lowered(
        optimised(lowered, spec),
        spec,
        {"main": weights},
        tmp_path / "bundle",
        spec_text=resolved_yaml(spec),
        form=options.pop("form", spec.target.form),
        max_batch=spec.target.max_batch,
        **options,
    )


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("precision", "form"),
    [("fp16", "loop"), ("bf16", "loop"), ("fp32", "loop"), ("fp16", "unroll"), ("bf16", "host")],
)
def test_dit(tmp_path: Path, form: str, precision: str) -> None:
    overrides = (f"target.precision={precision}", "target.profiles=[{min: 1, opt: 2, max: 4}]")
    manifest = compiled(tmp_path, DIT if form == "loop" else (*DIT, "sampler.steps=2"), *overrides, form=form)
    files = {p.file for p in manifest.plans}
    assert files == {name for name in manifest.files if name.endswith(".onnx")}
    main = max(manifest.plans, key=lambda p: manifest.files[p.plan].size)
    assert main.capability == "sm89" and main.precision == precision and main.profiles == ((1, 2, 4),)
    assert main.plan in manifest.files and main.version.startswith("1.")
    assert manifest.programs[0].max_batch == 4
    blocks = {"loop": 2, "unroll": 4, "host": 2}[form]
    # Kernels are counted, so a step with two branches may hold more of them than the network has blocks.
    assert main.fused_attentions >= blocks if precision != "fp32" else main.fused_attentions == 0
    assert manifest == manifest_from_bytes((tmp_path / "bundle" / "manifest.json").read_bytes())


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("form", ["loop", "host"])
def test_llamagen(tmp_path: Path, form: str) -> None:
    manifest = compiled(tmp_path, TOKENS, "target.precision=fp16", form=form)
    main = max(manifest.plans, key=lambda p: manifest.files[p.plan].size)
    assert main.fused_attentions >= 2
    assert main.profiles == ((1, 8, 64),)


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_generator(tmp_path: Path, precision: str) -> None:
    """Its norms folded, one in each block into a convolution; what no engine holds is beside it."""
    manifest = compiled(tmp_path, GENERATOR, f"target.precision={precision}", form="auto")
    assert [p.capability for p in manifest.plans] == ["sm89"] and manifest.programs[0].form == "unroll"
    assert "weights/folded.safetensors" in manifest.files


CAPABILITIES = ("sm80", "sm89", "sm120")


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("system", "form", "capabilities"), [(DIT, "loop", CAPABILITIES), (TOKENS, "host", CAPABILITIES[1:2])]
)
def test_a_plan_for_each_capability(
    tmp_path: Path, system: tuple[str, ...], form: str, capabilities: tuple[str, ...]
) -> None:
    """Each with two profiles of dynamic batch, its attentions fused; elsewhere the graphs still run."""
    profiles = "target.profiles=[{min: 1, opt: 2, max: 4}, {min: 5, opt: 8, max: 64}]"
    given = (f"target.capabilities=[{', '.join(capabilities)}]", "target.precision=fp16", profiles)
    manifest = compiled(tmp_path, system, *given, form=form)
    files = {name for name in manifest.files if name.endswith(".onnx")}
    made = {(p.file, p.capability): p for p in manifest.plans}
    assert set(made) == {(file, capability) for file in files for capability in capabilities}
    main = max(files, key=lambda file: manifest.files[made[file, "sm89"].plan].size)
    for capability in capabilities:
        plan = made[main, capability]
        assert plan.plan == f"{main.removesuffix('.onnx')}.{capability}.plan"
        assert plan.profiles == ((1, 2, 4), (5, 8, 64)) and plan.fused_attentions >= 2
        code = (tmp_path / "bundle" / plan.plan).read_bytes()
        assert [c for c in CAPABILITIES if c.encode() in code] == [capability], "it says what it is for"
    pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
    assert len(pipe.sample([1, 2], seeds=3)) == 2


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("overrides", "options", "code", "text"),
    [
        (("target.capabilities=[sm90]",), {}, "E0505", "not for sm90"),
        ((), {"by_reference": True}, "E0504", "hold their weights"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, overrides: Any, options: Any, code: str, text: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, *overrides, **options)
    assert caught.value.diagnostics[0].code == code
    assert text in caught.value.diagnostics[0].message
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.usefixtures("rtx")
def test_a_refused_graph_gives_the_librarys_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention as an operator inside a loop, which TensorRT-RTX does not build."""
    monkeypatch.setattr("latentc.export.bundle.for_form", lambda module, form, engine: module)
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, "target.precision=fp16", form="loop")
    found = caught.value.diagnostics[0]
    assert found.code == "E0504" and found.notes
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.usefixtures("rtx")
def test_missing_fusion_is_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.export.bundle.looped_attentions", lambda module, entry: 99)
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, DIT, "target.precision=fp16", form="loop")
    assert caught.value.diagnostics[0].code == "E0506"
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_too_many_sorted_tokens_are_refused_before_the_build(tmp_path: Path) -> None:
    vocabulary = ("data.tokens={vocabulary: 5000, grid: [8, 8]}", "sampler.top_k=4000")
    with pytest.raises(DiagnosticError) as caught:
        compiled(tmp_path, TOKENS, *vocabulary, form="host")
    assert "3840" in caught.value.diagnostics[0].message
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_dying_builder_and_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = {
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": ("E0504", "too little memory"),
        "import json; print(json.dumps({'error': 'missing', 'message': 'No module'}))": ("E0505", "tensorrt_rtx"),
    }
    start = subprocess.Popen
    for program, (code, text) in fakes.items():
        monkeypatch.setattr(
            plans.subprocess, "Popen", lambda command, _p=program, **kw: start([sys.executable, "-c", _p], **kw)
        )
        with pytest.raises(DiagnosticError) as caught:
            compiled(tmp_path, DIT, form="unroll")
        assert caught.value.diagnostics[0].code == code
        assert text in caught.value.diagnostics[0].message
        assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        """A slow worker; Ctrl-C arrives while it is waited for, not in a library's own code."""

        def __init__(self, command: Any, **options: Any) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)

        def communicate(self, *args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(plans.subprocess, "Popen", Interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compiled(tmp_path, DIT, form="unroll")
    assert time.monotonic() - begun < 50
    assert started and all(worker.poll() is not None for worker in started)
    assert [p.name for p in tmp_path.iterdir()] in (["w.safetensors"], [])


class Killed(subprocess.Popen):  # type: ignore[type-arg]
    """The worker, killed so many seconds after it has the library."""

    after = 0.0

    def communicate(self, *args: Any, **options: Any) -> Any:
        threading.Thread(target=self.watch, daemon=True).start()
        return super().communicate(*args, **options)

    def watch(self) -> None:
        maps = Path(f"/proc/{self.pid}/maps")
        while self.poll() is None and "libtensorrt_rtx" not in maps.read_text():
            time.sleep(0.005)
        time.sleep(self.after)
        self.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("seconds", [0.0, 0.4])
def test_a_build_that_is_killed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As the system does it where memory runs out."""
    monkeypatch.setattr(Killed, "after", seconds)
    monkeypatch.setattr(plans.subprocess, "Popen", Killed)
    with pytest.raises(DiagnosticError, match=r"E0504.*was killed: perhaps there is too little memory"):
        compiled(tmp_path, (*DIT, "sampler.steps=8"), form="unroll")
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    assert not plan_cache.folder_of("plans").exists()


@pytest.mark.usefixtures("rtx")
def test_a_plan_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = plans._built

    def counted(name: str, *rest: Any) -> Any:
        built.append(name)
        return real(name, *rest)

    monkeypatch.setattr(plans, "_built", counted)
    first = compiled(tmp_path, SMALL, form="loop")
    plan = tmp_path / "bundle" / first.plans[0].plan
    content = plan.read_bytes()
    assert compiled(tmp_path, SMALL, form="loop").plans == first.plans
    assert built == ["sample.onnx"] and plan.read_bytes() == content
    (entry,) = plan_cache.folder_of("plans").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    assert compiled(tmp_path, SMALL, form="loop").plans == first.plans
    assert len(built) == 2
    # Each of these is another plan.
    for change in ("target.precision=fp16", "target.profiles=[{min: 1, opt: 1, max: 2}]", "target.capabilities=[sm80]"):
        compiled(tmp_path, SMALL, change, form="loop")
    monkeypatch.setattr("test_bundle.weights_of", lambda params: {k: v + 1e-3 for k, v in weights_of(params).items()})
    compiled(tmp_path, SMALL, form="loop")
    assert len(built) == 6
    monkeypatch.setenv(plan_cache.LIMIT, "0")
    compiled(tmp_path, SMALL, form="loop")
    assert len(built) == 7


@pytest.fixture
def tensorrt(rtx: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """TensorRT and a GPU played by stand-ins, in this process and the worker's; gives what the builder was told."""
    folder = str(Path(__file__).parents[1] / "standins")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])]))
    told = tmp_path.parent / f"{tmp_path.name}.told"
    monkeypatch.setenv("TENSORRT_TOLD", str(told))
    names = ("cuda", "cuda.bindings", "cuda.bindings.runtime")
    real = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield lambda: [json.loads(line) for line in told.read_text().splitlines()]
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(real)


TENSORRT = ("target.engine=tensorrt", "target.capabilities=[]", "target.precision=fp16")


def test_tensorrt_by_the_same_path(tensorrt: Any, tmp_path: Path) -> None:
    profiles = "target.profiles=[{min: 1, opt: 2, max: 4}, {min: 5, opt: 8, max: 16}]"
    manifest = compiled(tmp_path, DIT, *TENSORRT, profiles, form="loop")
    (plan,) = manifest.plans
    assert (plan.engine, plan.version, plan.capability, plan.driver) == ("tensorrt", "11.4.0", "sm89", "13.1")
    assert plan.plan == "sample.sm89.plan" and plan.fused_attentions >= 2
    assert not (plan.version_compatible or plan.hardware_compatible or plan.stripped)
    assert tensorrt() == [{"flags": [], "timings": "", "profiles": 2}]


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("version_compatible", {"flags": ["VERSION_COMPATIBLE"]}),
        ("hardware_compatible", {"hardware_compatibility_level": "AMPERE_PLUS"}),
        ("strip_weights", {"flags": ["STRIP_PLAN"]}),
    ],
)
def test_options_reach_the_builder_and_the_manifest(tensorrt: Any, tmp_path: Path, option: str, flag: Any) -> None:
    (plan,) = compiled(tmp_path, DIT, *TENSORRT, f"target.{option}=true", form="loop").plans
    (told,) = tensorrt()
    assert told == {"flags": [], "timings": "", "profiles": 1, **flag}
    field = {"strip_weights": "stripped"}.get(option, option)
    assert [f for f in ("version_compatible", "hardware_compatible", "stripped") if getattr(plan, f)] == [field]


def test_timings_are_kept_from_build_to_build(tensorrt: Any, tmp_path: Path) -> None:
    compiled(tmp_path, DIT, *TENSORRT, form="loop")
    (timings,) = plan_cache.folder_of("timing").glob("*.cache")
    assert timings.name == "tensorrt-11.4.0-sm89.cache" and timings.read_bytes() == b"t"
    for changed in (b"t", b"damaged"):
        timings.write_bytes(changed)
        compiled(tmp_path, DIT, *TENSORRT, f"sampler.steps={len(changed)}", form="loop")
    assert [told["timings"] for told in tensorrt()] == ["", "t", ""]
    assert timings.read_bytes() == b"t"


def test_tensorrt_builds_for_the_gpu_that_is_there(tensorrt: Any, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=r"E0505.*for the GPU of this machine, sm89, not for sm120"):
        compiled(tmp_path, DIT, *TENSORRT, "target.capabilities=[sm120]", form="loop")


def test_options_that_do_not_hold_together() -> None:
    for override in (
        ["target.capabilities=[sm89]"],
        ["target.engine=tensorrt-rtx", "target.profiles=[{min: 4, opt: 2, max: 8}]"],
        ["target.engine=tensorrt-rtx", "target.hardware_compatible=true"],
        ["target.engine=tensorrt-rtx", "target.strip_weights=true"],
    ):
        with pytest.raises(DiagnosticError) as caught:
            load_spec("dit", None, override)
        assert caught.value.diagnostics[0].code == "E0308"


def test_profiles_double_with_the_guided_batch() -> None:
    from onnx import TensorProto, helper

    given = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3]),
        helper.make_tensor_value_info("cache", TensorProto.FLOAT, ["2*B", 4]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, [5, "B"]),
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
    ]
    model = helper.make_model(helper.make_graph([], "g", given, []))
    assert plans.profile_shapes(model, (1, 2, 8)) == {
        "x": [[1, 3], [2, 3], [8, 3]],
        "cache": [[2, 4], [4, 4], [16, 4]],
        "u": [[5, 1], [5, 2], [5, 8]],
        "i": [[], [], []],
    }


@pytest.mark.usefixtures("rtx")
def test_without_a_gpu_the_runtime_says_so(tmp_path: Path) -> None:
    try:
        Cuda()
    except BundleError as error:
        assert error.code == "E0606"
    else:
        pytest.skip("there is a GPU")
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=())
    assert caught.value.code == "E0606"


@pytest.mark.usefixtures("rtx")
def test_verification_goes_inside_of_profiles(tmp_path: Path) -> None:
    compiled(tmp_path, (*DIT, "backbone.width=32", "sampler.steps=2"), "target.profiles=[{min: 1, opt: 5, max: 12}]")
    report = api.verify(tmp_path / "bundle")
    assert report.ok and {c.batch for c in report.comparisons if c.what == "sampler"} == {1, 2, 3, 5, 8, 12}
