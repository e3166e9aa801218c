"""DiT with guidance, the whole pipeline from seeds to latents: this compiler's sampler against what users would run.

    python benchmarks/pipeline.py [--variant S/2] [--steps 50] [--batches 1,8] [--rounds N] [--cache FOLDER]

Against, with the same random weights, noise and timesteps (DDIM, evenly spaced, guidance of all four channels):

    eager     diffusers' DiTPipeline, float32
    compiled  the same in bfloat16, its transformer under torch.compile
    exported  the emitted network through torch.onnx.export at that batch, in OpenVINO with the bf16 hint, driven by a
              loop in numpy; needs `pip install onnxscript`

The first stage is left out of all: the pipeline's autoencoder hands the latents on. All paths take turns in one run, so
the ratios hold where the seconds do not; figures are medians. Errors are relative, against `eager`. The share is of the
rate of PyTorch's bf16 (eager: fp32) square matrix product. `--cache` keeps exported files between runs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import product_rate, random_bundle, random_weights, turns, verdict

from latentc.emit.model import model_source
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.measure.emitted import module_from_source
from latentc.measure.metrics import relative_error
from latentc.spec import load_spec
from latentc.weights import materialise
from latentc_runtime import load

TRAINED, SCALE = 1000, 4.0
GOALS = {"eager": 5.0, "compiled": 1.5, "exported": 1.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/2")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paths", default="eager,compiled,exported")
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = args.cache or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for batch in (int(text) for text in args.batches.split(",")):
            _measure(args, folder, Path(name), batch)


def _measure(args: Any, cache: Path, folder: Path, batch: int) -> None:
    spec = load_spec("dit", args.variant, _sampler(args.steps))
    lowered = lower(spec)
    weights = {path: np.array(materialise(e)) for path, e in random_weights(lowered)["main"].items()}
    place = folder / f"bundle{batch}"
    target = ["target.engine=openvino", "target.precision=bf16"]
    manifest = random_bundle(place, "dit", args.variant, [*_sampler(args.steps), *target])
    pipe = load(place, threads=args.threads, verify=False)
    classes, seeds = np.arange(batch) * 31 % 1000, np.arange(batch)
    x = pipe.noise(seeds, batch)["x"]
    calls: dict[str, Callable[[int], np.ndarray]] = {"latentc": lambda steps: pipe.sample(classes, seeds)}
    for name in filter(None, args.paths.split(",")):
        make = _exported if name == "exported" else _diffusers
        calls[name] = make(name, spec, lowered, weights, x, classes, cache, args.threads)
    for call in calls.values():
        call(2)  # opens, compiles, allocates
    results: dict[str, np.ndarray] = {}

    def kept(name: str, call: Callable[[int], np.ndarray]) -> Callable[[], None]:
        return lambda: results.__setitem__(name, call(args.steps))

    taken = turns({name: kept(name, call) for name, call in calls.items()}, args.rounds)
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    work = 2.0 * batch * args.steps * flops(lowered.module, lowered.networks["main"].methods["forward"].function)
    rates = {"fp32": product_rate(torch.float32), "bf16": product_rate(torch.bfloat16)}
    print(
        f"DiT-{args.variant}, {args.steps} steps with guidance, batch {batch}, form {manifest.programs[0].form};",
        end=" ",
    )
    print(f"matrix product {', '.join(f'{p} {r / 1e12:.2f} TFLOP/s' for p, r in rates.items())}")
    for name, time in seconds.items():
        share = work / time / rates["fp32" if name == "eager" else "bf16"]
        error = relative_error(results[name], results["eager"]) if "eager" in results else float("nan")
        print(
            f"  {name:9} {time:8.3f} s, {1e3 * time / args.steps:7.2f} ms a step, {share:4.0%} of the product, ", end=""
        )
        print(f"error {error:.1e}")
    for name, goal in GOALS.items():
        if name in seconds:
            print(verdict(f"batch {batch}: latentc against {name}", seconds[name] / seconds["latentc"], goal))
    assert "eager" not in results or relative_error(results["latentc"], results["eager"]) < 0.1, "other images"


def _timesteps(steps: int) -> list[int]:
    return [TRAINED // steps * i for i in reversed(range(steps))]


def _sampler(steps: int) -> list[str]:
    grid = _timesteps(steps)
    return [f"sampler={{kind: ddim, timesteps: {grid}, guidance: {{scale: {SCALE}, channels: 4}}}}"]


class _NoStage(torch.nn.Module):
    """An autoencoder that keeps the latents it is given."""

    device, dtype = torch.device("cpu"), torch.float32
    config = argparse.Namespace(scaling_factor=1.0)

    def decode(self, latents: Any) -> Any:
        self.latents = latents
        return argparse.Namespace(sample=latents)


def _diffusers(
    name: str, spec: Any, lowered: Any, weights: Any, x: np.ndarray, classes: np.ndarray, cache: Path, threads: int
) -> Callable[[int], np.ndarray]:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    from diffusers.pipelines.dit import pipeline_dit

    net, dtype = spec.backbone, torch.float32 if name == "eager" else torch.bfloat16
    heads = net.block.mixer.heads
    transformer = DiTTransformer2DModel(
        heads, net.width // heads, 4, 8, net.depth, sample_size=32, patch_size=net.patch, norm_eps=1e-6
    ).eval()
    transformer.load_state_dict(_official(weights, net.depth, transformer.state_dict()))
    for block in transformer.transformer_blocks:  # DiT's frequencies; diffusers' are a little apart
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    transformer = transformer.to(dtype)
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=True)
    pipe = DiTPipeline(transformer, _NoStage(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    if name == "compiled":
        pipe.transformer.forward = torch.compile(transformer.forward)
    noise = torch.from_numpy(x)

    def sample(steps: int) -> np.ndarray:
        with mock.patch.object(pipeline_dit, "randn_tensor", lambda *a, **k: noise.to(dtype)):
            pipe([int(c) for c in classes], SCALE, num_inference_steps=steps, output_type="np")
        latents: np.ndarray = pipe.vae.latents.float().numpy()
        return latents

    return sample


def _official(weights: dict[str, np.ndarray], depth: int, wanted: dict[str, Any]) -> dict[str, torch.Tensor]:
    """diffusers' state dict of DiT from ours; each of its blocks embeds time and class itself."""
    names = {
        "pos_embed.proj": "x_embedder",
        "proj_out_1": "final_layer.adaLN",
        "proj_out_2": "final_layer.linear",
    }
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks.{i}"
        names[f"{theirs}.norm1.emb.timestep_embedder.linear_1"] = "t_embedder.fc1"
        names[f"{theirs}.norm1.emb.timestep_embedder.linear_2"] = "t_embedder.fc2"
        names[f"{theirs}.norm1.emb.class_embedder.embedding_table"] = "y_embedder"
        names[f"{theirs}.norm1.linear"] = f"{ours}.adaLN"
        names[f"{theirs}.attn1.to_out.0"] = f"{ours}.attn.proj"
        names[f"{theirs}.ff.net.0.proj"] = f"{ours}.mlp.fc1"
        names[f"{theirs}.ff.net.2"] = f"{ours}.mlp.fc2"
    state = {}
    for path, tensor in wanted.items():
        stem, kind = path.rsplit(".", 1)
        if stem in names:
            state[path] = torch.from_numpy(weights[f"{names[stem]}.{kind}"]).reshape(tensor.shape)
        elif stem.split(".")[-1] in ("to_q", "to_k", "to_v"):
            block, part = stem.split(".")[1], ("to_q", "to_k", "to_v").index(stem.split(".")[-1])
            whole = torch.from_numpy(weights[f"blocks.{block}.attn.qkv.{kind}"])
            state[path] = whole.chunk(3)[part]
        else:
            state[path] = tensor  # the positions, which both compute
    return state


def _exported(
    name: str, spec: Any, lowered: Any, weights: Any, x: np.ndarray, classes: np.ndarray, cache: Path, threads: int
) -> Callable[[int], np.ndarray]:
    import openvino

    net = module_from_source(model_source(lowered), "model").build().eval()  # type: ignore[attr-defined]
    net.load_state_dict({path: torch.from_numpy(weights[path]) for path in net.state_dict()})
    batch = len(classes)
    place = cache / f"exported-{spec.backbone.width}-{spec.backbone.patch}-{batch}.onnx"
    if not place.exists():
        inputs = (torch.zeros(2 * batch, 4, 32, 32), torch.zeros(2 * batch), torch.zeros(2 * batch, dtype=torch.int64))
        torch.onnx.export(net, inputs, str(place), dynamo=True, external_data=True, input_names=["x", "t", "y"])
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(str(place), "CPU", settings).create_infer_request()
    labels = np.concatenate([classes, np.full(batch, spec.data.classes)])
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, TRAINED))

    def sample(steps: int) -> np.ndarray:
        state = x
        grid = _timesteps(steps)
        for t, after in zip(grid, [*grid[1:], None], strict=True):
            feed = {"x": np.concatenate([state, state]), "t": np.full(2 * batch, t, np.float32), "y": labels}
            cond, null = np.split(request.infer(feed)[0][:, :4], 2)
            eps = null + SCALE * (cond - null)
            now, then = alphas[t], 1.0 if after is None else alphas[after]
            start = (state - np.sqrt(1 - now) * eps) / np.sqrt(now)
            state = (np.sqrt(then) * start + np.sqrt(1 - then) * eps).astype(np.float32)
        return state

    return sample


if __name__ == "__main__":
    main()
