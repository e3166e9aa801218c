"""The steps of `make gpu`, each a function of the machine; see gpu.py, which runs each in a process of its own.

    python benchmarks/gpu_steps.py STEP RESULT.json [--stand-in]

A step returns {case: {path: figures}}. A path is one way to compute a case: one of our engines, or what it is compared
with. A path that fails has its error in place of figures, and the step goes on; a path whose package or provider is
missing here is listed under `missing`. Figures: `seconds` (median of several calls), `least`, `first` (opening and the
first call), `peak` (bytes of GPU memory beyond those in use before), and `share` of the rate of this GPU's own matrix
product in the same precision, for cases whose operations are counted; a multiply-add counts as 2. Weights are random
and of the real sizes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import compile_methods, random_bundle, random_weights
from gpu_machine import ROOT, Call, Engine, Figures, Machine, Paths, seconds_of, timed

from latentc.diagnostics import DiagnosticError
from latentc.emit.model import model_source
from latentc.export.bundle import onnx_from_network
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.measure.emitted import Emitted, module_from_source
from latentc.measure.metrics import relative_error
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import materialise
from latentc_runtime import load
from latentc_runtime.backends import open_backend

if TYPE_CHECKING:
    from latentc.components.contract import Lowered


@dataclass(frozen=True)
class System:
    """A shipped spec, its variant and overrides, and the overrides that make it tiny for the stand-in."""

    spec: str
    variant: str | None
    overrides: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()

    def sized(self, machine: Machine) -> tuple[str, ...]:
        """Its overrides on this machine."""
        return (*self.overrides, *(self.tiny if machine.stand_in else ()))


BARE = "data.first_stage=null"
SMALL = ("backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2")
DIT = System("dit", "XL/2", (BARE, "sampler={kind: ddim, steps: 20, guidance: {scale: 4.0, channels: 3}}"))
DIT = System(DIT.spec, DIT.variant, DIT.overrides, (*SMALL, "data.shape=[4, 8, 8]", "sampler.steps=2"))
LLAMAGEN = System("llamagen", "L", (BARE,), (*SMALL, "data.tokens.grid=[2, 2]"))
SYSTEMS = {
    "VAR d16": System(
        "var",
        "d16",
        (BARE,),
        ("networks.main.width=32", "networks.main.depth=1", "networks.main.block.mixer.heads=2"),
    ),
    "MAR-B, 8 steps": System(
        "mar",
        "B",
        (BARE, "sampler.steps=8", "sampler.diffusion.respacing=5"),
        (
            *("networks.main.width=32", "networks.main.depth=1", "networks.main.block.mixer.heads=2"),
            *("networks.head.width=32", "networks.head.depth=1", "sampler.steps=2"),
        ),
    ),
    "EDM2-S, 8 steps": System(
        "edm2",
        "S-512",
        (BARE, "sampler.steps=8"),
        (
            *("networks.main.width=16", "networks.main.multipliers=[1, 2]", "networks.main.blocks=1"),
            *("networks.main.attention=[1]", "networks.main.block.head_channels=8", "data.shape=[4, 8, 8]"),
            *("conditioning.time.frequencies=16", "sampler.steps=2"),
        ),
    ),
    "BigGAN-128": System("biggan", "128", (), ("backbone.width=4", "backbone.embedding=8", "backbone.latent_dim=24")),
}


def _arrays(spec: Any) -> dict[str, np.ndarray]:
    return {
        f"{network}.{path}": np.array(materialise(e))
        for network, own in random_weights(lower(spec)).items()
        for path, e in own.items()
    }


def sampler_paths(
    machine: Machine, system: System, batch: int, folder: Path, forms: Sequence[str], quantised: bool = False
) -> Paths:
    """Whole samplers: every engine in every form (and quantised), and the emitted loop, eager and compiled."""

    def bundle(place: Path, *overrides: str) -> Path:
        """The bundle of the system, compiled at first use."""
        if not place.exists():
            random_bundle(place, system.spec, system.variant, [*system.sized(machine), *overrides])
        return place

    def engine_call(engine: Engine, form: str, scheme: str | None, place: Path) -> Call:
        overrides = [*engine.overrides, f"target.precision={engine.precision}", f"target.form={form}"]
        overrides += [f"target.max_batch={batch}"]
        overrides += [f"optimize.quantize={{scheme: {scheme}}}"] if scheme else []
        pipe = load(bundle(place, *overrides), device=engine.device, verify=False)
        request = pipe.usual_request(batch)
        return lambda: pipe.run(request)

    def pytorch_call(compiled: bool) -> Call:
        """The emitted networks and loop under bf16 autocast, from the inputs that a bundle would get."""
        torch = machine.torch
        spec = load_spec(system.spec, system.variant, list(system.sized(machine)))
        lowered = lower(spec)
        emitted = Emitted(lowered, spec, _arrays(lowered), machine.device)
        sys.modules.update(emitted.modules)  # torch.compile looks up there where the code it traces is defined
        torch._dynamo.config.capture_scalar_outputs = True  # positions are scalars, and would end a graph
        torch._dynamo.config.suppress_errors = True  # what it cannot compile runs as it is
        if compiled:
            compile_methods(emitted, lowered, machine.compiled)
        plain = bundle(folder / "inputs", "target.engine=onnxruntime", "target.form=host")
        request = load(plain, device="cpu", verify=False).usual_request(batch)
        program, variables = emitted.program(request.entry), request.variables()
        operands = [variables[i.name] for i in request.entry.inputs]

        def call() -> None:
            with torch.autocast(machine.device, torch.bfloat16, enabled=not machine.stand_in):
                program(operands)

        return call

    paths: Paths = {}
    for name, engine in machine.engines.items():
        for form in forms:
            for scheme in (None, *(engine.schemes if quantised else ())):
                title = f"{name}, {form}, {scheme or engine.precision}"
                place = folder / re.sub(r"\W+", "-", title)
                paths[title] = partial(engine_call, engine, form, scheme, place)
    for how in ("eager", "compiled"):
        paths[f"PyTorch {how}, {machine.short}"] = partial(pytorch_call, how == "compiled")
    return paths


def _arrays(lowered: Lowered) -> dict[str, np.ndarray]:
    weights = random_weights(lowered)
    return {f"{net}.{path}": np.array(materialise(e)) for net, own in weights.items() for path, e in own.items()}


# --- the steps


def tests(machine: Machine, folder: Path) -> Figures:
    """`pytest tests/gpu`: how many passed, the message of each that failed, and why others were skipped."""
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/gpu"]
    code = subprocess.run(command, cwd=ROOT).returncode
    if code not in (0, 1):  # 1: some tests failed
        raise SystemExit(f"pytest ended with {code}")
    found: dict[str, Figures] = {"passed": {"count": 0}}
    for case in ET.parse(report).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        message = " ".join((bad.get("message") or "").split())[:300] if bad is not None else ""
        if bad is not None and bad.tag != "skipped":
            found[f"{case.get('name')}"] = {"failed": message}
        else:
            counted = found.setdefault("passed" if bad is None else f"skipped: {message}", {"count": 0})
            counted["count"] += 1
    return {"pytest tests/gpu": found}


def forward(machine: Machine, folder: Path) -> Figures:
    """One evaluation of DiT-XL/2: our graph and that of torch.onnx.export in each engine, PyTorch eager and compiled.

    PyTorch's attention is its fused kernel (FlashAttention where the GPU has it).
    """
    torch = machine.torch
    spec = load_spec(DIT.spec, DIT.variant, list(DIT.sized(machine)))
    lowered = lower(spec)
    network = lowered.networks["main"]
    weights = random_weights(lowered)["main"]
    net = module_from_source(model_source(lowered), "model").build().eval()
    kept = net.state_dict()
    net.load_state_dict({k: torch.from_numpy(np.array(materialise(e))) for k, e in weights.items() if k in kept})
    net.to(machine.device, machine.half)
    channels, side, _ = (int(n) for n in spec.data.shape)
    found: Figures = {}
    for batch in (2,) if machine.stand_in else (1, 8, 64):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, channels, side, side)).astype(np.float32)
        feed = {"x": x, "t": np.linspace(0, 999, batch).astype(np.float32), "y": np.arange(batch)}
        on_gpu = [torch.from_numpy(a).to(machine.device) for a in feed.values()]
        tensors = tuple(a.to(machine.half) if a.is_floating_point() else a for a in on_gpu)

        def pytorch_call(compiled: bool, tensors: Any = tensors) -> Call:
            model = machine.compiled(net) if compiled else net

            def call() -> None:
                with torch.inference_mode():
                    model(*tensors)
                machine.finish()

            return call

        def ours_call(name: str, feed: Any = feed) -> Call:
            engine = machine.engines[name]
            given = [*DIT.sized(machine), *engine.overrides, f"target.precision={engine.precision}"]
            place = folder / re.sub(r"\W+", "-", name)
            place.mkdir(exist_ok=True)
            target = load_spec(DIT.spec, DIT.variant, given)
            model, external = onnx_from_network(optimised(lowered, target), "main", "forward", weights, place)
            return _graph_call(machine, engine, model, external, feed)

        def exported_call(name: str, tensors: Any = tensors, feed: Any = feed) -> Call:
            model = folder / "exported.onnx"
            if not model.exists():
                batch_dim = torch.export.Dim("B", min=1, max=256)
                torch.onnx.export(
                    net,
                    tensors,
                    str(model),
                    dynamo=True,
                    external_data=True,
                    input_names=list(feed),
                    dynamic_shapes=tuple({0: batch_dim} for _ in tensors),
                )
            return _graph_call(machine, machine.engines[name], model, {}, feed)

        paths: Paths = {}
        for name, engine in machine.engines.items():
            paths[f"{name}, {engine.precision}"] = partial(ours_call, name)
            if importlib.util.find_spec("onnxscript"):
                paths[f"torch.onnx.export, {name}, {machine.short}"] = partial(exported_call, name)
            else:
                machine.missing["torch.onnx.export"] = "onnxscript: pip install onnxscript"
        for how in ("eager", "compiled"):
            paths[f"PyTorch {how}, {machine.short}"] = partial(pytorch_call, how == "compiled")
        work = float(flops(lowered.module, network.methods["forward"].function)) * batch
        found[f"DiT-XL/2, batch {batch}"] = timed(machine, paths, work)
    return found


def _graph_call(
    machine: Machine, engine: Engine, model: Path, external: Mapping[str, Path], feed: Mapping[str, np.ndarray]
) -> Call:
    """One run of an ONNX file; its inputs are on the device before."""
    import onnx

    (output,) = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
    if "onnxruntime" in engine.overrides[0] or "openvino" in engine.overrides[0]:
        name = engine.overrides[0].removeprefix("target.engine=")
        backend = open_backend(engine.device, None, name, engine.precision)
        opened = backend.engine(model, external)
        values = {n: backend.value(_as_taken(model, n, a)) for n, a in feed.items()}
        return lambda: backend.array(opened.run(values, [output])[output])
    return _plan_call(machine, model, feed)


def _as_taken(model: Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array in the dtype of an ONNX file's input; bf16 inputs do not exist in numpy, so those stay float32."""
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    kind = next(i.type.tensor_type.elem_type for i in graph.input if i.name == name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return array.astype(dtype) if dtype.kind in "fiu" else array


def _plan_call(machine: Machine, model: Path, feed: Mapping[str, np.ndarray]) -> Call:
    """A plan of TensorRT, built and run by Polygraphy: the same for our graph and for a foreign one."""
    from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, NetworkFromOnnxPath, Profile, TrtRunner

    profile = Profile()
    for name, array in feed.items():
        profile.add(name, array.shape, array.shape, array.shape)
    network = NetworkFromOnnxPath(str(model), strongly_typed=True)
    runner = TrtRunner(EngineFromNetwork(network, CreateConfig(profiles=[profile])))
    runner.activate()
    tensors = {name: machine.torch.from_numpy(array).to(machine.device) for name, array in feed.items()}

    def call() -> None:
        runner.infer(tensors, copy_outputs_to_host=False)
        machine.finish()

    return call


def samplers(machine: Machine, folder: Path) -> Figures:
    """The whole guided sampler of DiT-XL/2, 20 steps: loop and host form (CUDA graphs), quantised, against PyTorch."""
    batch = 2 if machine.stand_in else 8
    lowered = lower(load_spec(DIT.spec, DIT.variant, list(DIT.sized(machine))))
    evaluation = float(flops(lowered.module, lowered.networks["main"].methods["forward"].function))
    steps = 2 if machine.stand_in else 20
    paths = sampler_paths(machine, DIT, batch, folder, ("loop", "host"), quantised=True)
    figures = timed(machine, paths, 2 * evaluation * batch * steps, rounds=5)
    return {f"DiT-XL/2, {steps} guided steps, batch {batch}": per_sample(figures, batch)}


def tokens(machine: Machine, folder: Path) -> Figures:
    """LlamaGen-L, 256 tokens one after the other with guidance."""
    found: Figures = {}
    count = 4 if machine.stand_in else 256
    for batch in (1,) if machine.stand_in else (1, 16):
        place = folder / str(batch)
        place.mkdir()
        figures = timed(machine, sampler_paths(machine, LLAMAGEN, batch, place, ("auto",)), rounds=3)
        for path in figures.values():
            if "seconds" in path:
                path["tokens_per_second"] = count * batch / path["seconds"]
        found[f"LlamaGen-L, batch {batch}"] = figures
    return found


def systems(machine: Machine, folder: Path) -> Figures:
    """One system of each other family: whole samplers at batch 8."""
    batch, found = 2 if machine.stand_in else 8, {}
    for name in ["BigGAN-128"] if machine.stand_in else SYSTEMS:
        system = SYSTEMS[name]
        place = folder / re.sub(r"\W+", "-", name)
        place.mkdir()
        paths = sampler_paths(machine, system, batch, place, ("auto",))
        found[f"{name}, batch {batch}"] = per_sample(timed(machine, paths, rounds=3), batch)
    return found


def per_sample(figures: dict[str, Figures], batch: int) -> dict[str, Figures]:
    """The figures with `samples_per_second`."""
    for path in figures.values():
        if "seconds" in path:
            path["samples_per_second"] = batch / path["seconds"]
    return figures


def quantised(machine: Machine, folder: Path) -> Figures:
    """Digits, trained here: the error of samples of each precision and scheme against float32 on the CPU."""
    steps = 5 if machine.stand_in else 2000
    tiny = SMALL if machine.stand_in else ()
    settings = [*tiny, "sampler={kind: ddim, steps: 10}"]
    trained = [*settings, f"train.steps={steps}", f"train.schedule.warmup={steps // 10}", "train.sample_every=null"]
    _latentc("train", "digits_dit", *_set(trained), "--output", folder / "project", "--out", folder / "run")
    weights = folder / "run" / "weights.safetensors"
    count = 4 if machine.stand_in else 64
    classes, seeds = np.arange(count) % 10, np.arange(count)
    reference = None
    found: dict[str, Figures] = {}
    cases = [("ONNX Runtime, CPU, fp32", Engine("cpu", ("target.engine=onnxruntime",), (), "fp32"), None)]
    for name, engine in machine.engines.items():
        cases += [(f"{name}, {scheme or engine.precision}", engine, scheme) for scheme in (None, *engine.schemes)]
    for title, engine, scheme in cases:
        place = folder / re.sub(r"\W+", "-", title)
        overrides = [*settings, *engine.overrides, f"target.precision={engine.precision}"]
        overrides += [f"optimize.quantize={{scheme: {scheme}}}"] if scheme else []
        try:
            _latentc("compile", "digits_dit", *_set(overrides), "--weights", weights, "--output", place, "--force")
            pipe = load(place, device=engine.device)
            samples = pipe.sample(classes, seeds)
            taken = [seconds_of(partial(pipe.sample, classes, seeds)) for _ in range(3)]
        except Exception as error:  # one scheme that a GPU lacks leaves the others
            found[title] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
            continue
        reference = samples if reference is None else reference
        found[title] = {"seconds": statistics.median(taken), "error": float(relative_error(samples, reference))}
    return {"digits_dit, 10 steps": found}


def training(machine: Machine, folder: Path) -> Figures:
    """A training step of DiT-XL/2 in bf16: the emitted network and diffusers' of its sizes, eager and compiled; FSDP.

    `samples_per_second` of the emitted project are those it prints itself, under torchrun with FSDP on one GPU.
    """
    torch = machine.torch
    batch = 4 if machine.stand_in else 32
    spec = load_spec(DIT.spec, DIT.variant, list(DIT.sized(machine)))
    block = spec.networks["main"]
    width, depth, heads = block.width, block.depth, block.block.mixer.heads
    side = int(spec.data.shape[-1])

    def emitted() -> tuple[Any, Callable[..., Any]]:
        net = module_from_source(model_source(lower(spec)), "model").build()
        return net, net

    def diffusers() -> tuple[Any, Callable[..., Any]]:
        from diffusers import DiTTransformer2DModel

        sizes = {"num_attention_heads": heads, "attention_head_dim": width // heads, "num_layers": depth}
        net = DiTTransformer2DModel(**sizes, in_channels=4, out_channels=8, sample_size=side, patch_size=2)
        return net, lambda x, t, y: net(x, timestep=t, class_labels=y).sample

    def step_call(make: Callable[[], tuple[Any, Callable[..., Any]]], compiled: bool) -> Call:
        net, apply = make()
        net.to(machine.device).train()
        apply = machine.compiled(apply) if compiled else apply
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)
        x, noise = (torch.randn(batch, 4, side, side, device=machine.device) for _ in range(2))
        t = torch.randint(1000, (batch,), device=machine.device)
        y = torch.randint(1000, (batch,), device=machine.device)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(machine.device, torch.bfloat16, enabled=not machine.stand_in):
                loss = (apply(x + noise, t, y)[:, :4] - noise).square().mean()
            loss.backward()
            optimizer.step()
            machine.finish()

        return step

    paths: Paths = {}
    for name, make in (("emitted", emitted), ("diffusers", diffusers)):
        if name == "diffusers" and importlib.util.find_spec(name) is None:
            machine.missing[name] = "pip install diffusers"
            continue
        for how in ("eager", "compiled"):
            paths[f"{name}, {how}"] = partial(step_call, make, how == "compiled")
    forward_work = float(flops(lower(spec).module, lower(spec).networks["main"].methods["forward"].function))
    figures = per_sample(timed(machine, paths, 3 * forward_work * batch, rounds=5), batch)
    return {f"a step of DiT-XL/2, batch {batch}": figures, "train.py": {"fsdp": _fsdp(machine, folder, batch, side)}}


def _fsdp(machine: Machine, folder: Path, batch: int, side: int) -> Figures:
    """The emitted project under FSDP: the samples per second that it prints, and its peak memory."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((8 * batch, 4, side, side)).astype(np.float32)
    np.savez(folder / "train.npz", x=latents, y=np.arange(len(latents)) % 1000)
    steps = 4 if machine.stand_in else 40
    data = f"data={{kind: npz, path: {folder / 'train.npz'}, classes: 1000, shape: [4, {side}, {side}]}}"
    settings = [*DIT.tiny[:3]] if machine.stand_in else []
    settings += [data, "train.parallel=fsdp", f"train.batch_size={batch}", f"train.steps={steps}"]
    settings += [f"train.log_every={steps // 4}", "train.sample_every=null"]
    settings += [] if machine.stand_in else ["train.precision=bf16"]
    _latentc("emit", "dit", "--variant", "XL/2", *_set(settings), "--output", folder / "project")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "train.py"]
    with machine.peak() as peak:
        done = subprocess.run(command, cwd=folder / "project", capture_output=True, text=True)
    if done.returncode:
        print(done.stderr)
        return {"failed": done.stderr.partition("torch/distributed/elastic")[0].strip()[-400:]}
    speeds = [float(text) for text in re.findall(r"([\d.,]+) samples/s", done.stdout.replace(",", ""))]
    return {"samples_per_second": max(speeds), "peak": peak["bytes"]}


def _set(overrides: Sequence[str]) -> list[str]:
    return [text for override in overrides for text in ("--set", override)]


def _latentc(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentc", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"latentc {arguments[0]} failed: {done.stderr.strip()[-400:]}")


def plans(machine: Machine, folder: Path) -> Figures:
    """Builds the plans of the other steps' samplers by TensorRT-RTX, ahead of time and so without a GPU, for sm89.

    Those of nvfp4 are for sm120. Shows that the GPU's time will not go into graphs that do not build.
    `seconds` is the whole compilation.
    """
    if importlib.util.find_spec("tensorrt_rtx") is None:
        machine.missing["plans"] = "tensorrt_rtx: see docs/install.md"
        return {}
    target = ("target.engine=tensorrt-rtx", "target.capabilities=[sm89]", "target.precision=bf16", "target.max_batch=8")
    cases = [("DiT-XL/2", DIT, form, scheme) for form in ("loop", "host") for scheme in (None, "int8", "fp8", "nvfp4")]
    cases += [(name, system, "auto", None) for name, system in {"LlamaGen-L": LLAMAGEN, **SYSTEMS}.items()]
    found: dict[str, Figures] = {}
    for name, system, form, scheme in cases:
        title = f"{name}, {form}, {scheme or 'bf16'}"
        print(f"  {title}", flush=True)
        overrides = [*system.sized(machine), *target, f"target.form={form}"]
        overrides += [f"optimize.quantize={{scheme: {scheme}}}"] if scheme else []
        overrides += ["target.capabilities=[sm120]"] if scheme == "nvfp4" else []  # sm89 has no such floats
        place = folder / "bundle"
        try:
            begin = time.perf_counter()
            manifest = random_bundle(place, system.spec, system.variant, overrides)
            fused = sum(plan.fused_attentions for plan in manifest.plans)
            found[title] = {"seconds": time.perf_counter() - begin, "plans": len(manifest.plans), "fused": fused}
        except DiagnosticError as error:
            found[title] = {"failed": " ".join(str(error).split())[:400]}
        shutil.rmtree(place, ignore_errors=True)
    return {"plans for sm89, nvfp4 for sm120": found}


STEPS: dict[str, Callable[[Machine, Path], Figures]] = {
    step.__name__: step for step in (tests, forward, samplers, tokens, systems, quantised, training, plans)
}
"""In the order of their worth; `plans` needs no GPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("result", type=Path)
    parser.add_argument("--stand-in", action="store_true")
    args = parser.parse_args()
    machine = Machine(args.stand_in)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cases = STEPS[args.step](machine, Path(folder))
    result = {"step": args.step, "machine": machine.described(), "missing": machine.missing, "cases": cases}
    result |= {"wall": time.perf_counter() - begin}
    written = args.result.with_suffix(".part")
    written.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    written.replace(args.result)  # whole or not at all


if __name__ == "__main__":
    main()
