"""Whether a residual's gate, x + gate · branch, is worth an operator of its own: DiT-S/2's sizes, batch 8.

    python benchmarks/residual_gate.py [--parts eager,compile,onnxruntime,openvino] [--depth 12] [--rounds N]

    eager         emitted PyTorch, forward and training step, as it is against `torch.addcmul(x, gate, branch)`
    compile       the same under torch.compile (a minute or two of compiling at depth 4)
    onnxruntime   a chain of gated residuals, each before a LayerNormalization and a modulation, against Mul and
                  SkipLayerNormalization, which adds and normalises; and what ONNX Runtime makes of our own graph
    openvino      which layers of its runtime model hold the products and sums of the gates

Sides take turns; times are the least of all rounds.
"""

from __future__ import annotations

import argparse
import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import random_bundle, turns
from train_step import step_of

B, T, D = 8, 256, 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="eager,compile,onnxruntime,openvino")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for part in args.parts.split(","):
        if part in ("eager", "compile"):
            pytorch(part == "compile", args.depth, args.rounds, args.threads)
        elif part == "onnxruntime":
            onnxruntime_chain(2 * args.depth, args.rounds, args.threads)
            onnxruntime_graph(args.depth)
        else:
            openvino_layers(args.depth)


def least(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, after a call that is not timed."""
    return {name: 1e3 * min(taken[1:]) for name, taken in turns(calls, rounds + 1).items()}


def pytorch(compiled: bool, depth: int, rounds: int, threads: int) -> None:
    import torch

    from latentc.emit import model_source
    from latentc.lower import lower
    from latentc.measure.emitted import module_from_source
    from latentc.spec import load_spec

    torch.set_num_threads(threads)
    text = model_source(lower(load_spec("dit", "S/2", [f"backbone.depth={depth}"])))
    changed, count = re.subn(r"x \+ (gate_\w+) \* (self\..*)$", r"torch.addcmul(x, \1, \2)", text, flags=re.M)
    assert count == 2, "the block's two residuals"
    x, t, y = torch.randn(B, 4, 32, 32), torch.linspace(0, 999, B), torch.arange(B)
    calls: dict[str, dict[str, Callable[[], object]]] = {"fp32": {}, "bf16": {}, "training step fp32": {}}
    for name, source in (("addcmul", changed), ("x + gate * y", text)):
        net = module_from_source(source, "model").build()  # type: ignore[attr-defined]
        with torch.no_grad():  # the emitted gates start at zero
            for p in net.parameters():
                p.normal_(std=0.03)
        call = torch.compile(net) if compiled else net

        def forward(call: Any = call, bf16: bool = False) -> None:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                call(x, t, y)

        calls["fp32"][name] = forward
        calls["bf16"][name] = lambda forward=forward: forward(bf16=True)
        calls["training step fp32"][name] = step_of(net.parameters(), lambda call=call: call(x, t, y)[:, :4])
    for what, sides in calls.items():
        found = least(sides, rounds)
        shown = ", ".join(f"{name} {ms:.1f} ms" for name, ms in found.items())
        ratio = found["x + gate * y"] / found["addcmul"]
        print(
            f"PyTorch {'compiled' if compiled else 'eager'} {what}, {depth} blocks: {shown}, {ratio:.3f} ×", flush=True
        )


def onnxruntime_chain(count: int, rounds: int, threads: int) -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    n, kind = helper.make_node, TensorProto.FLOAT
    calls: dict[str, Callable[[], object]] = {}
    results = {}
    for name in ("Add, LayerNormalization", "SkipLayerNormalization"):
        nodes, x, y = [], "x", "y"
        for i in range(count):
            nodes.append(n("Mul", [y, "gate"], [f"gated{i}"]))
            if name == "SkipLayerNormalization":
                outs = [f"norm{i}", "", "", f"x{i}"]
                nodes.append(n(name, [x, f"gated{i}", "one", "zero"], outs, domain="com.microsoft", epsilon=1e-6))
            else:
                nodes.append(n("Add", [x, f"gated{i}"], [f"x{i}"]))
                nodes.append(n("LayerNormalization", [f"x{i}", "one", "zero"], [f"norm{i}"], epsilon=1e-6))
            nodes += [n("Mul", [f"norm{i}", "scale"], [f"scaled{i}"]), n("Add", [f"scaled{i}", "shift"], [f"y{i}"])]
            x, y = f"x{i}", f"y{i}"
        shapes = {"x": (B, T, D), "y": (B, T, D), "gate": (B, 1, D), "scale": (B, 1, D), "shift": (B, 1, D)}
        affine = [numpy_helper.from_array(np.full(D, v, np.float32), k) for k, v in (("one", 1), ("zero", 0))]
        ins = [helper.make_tensor_value_info(k, kind, shape) for k, shape in shapes.items()]
        graph = helper.make_graph(nodes, "chain", ins, [helper.make_tensor_value_info(x, kind, (B, T, D))], affine)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        feed = {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
        results[name] = session.run(None, feed)[0]
        calls[name] = lambda session=session, feed=feed: session.run(None, feed)
    first, second = results.values()
    found = least(calls, rounds)
    shown = ", ".join(f"{name} {ms:.1f} ms" for name, ms in found.items())
    print(f"ONNX Runtime, {count} gated residuals: {shown}; differ by {np.abs(first - second).max():.1e}", flush=True)


def onnxruntime_graph(depth: int) -> None:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as name:
        step = _step_file(Path(name), depth, [])
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{name}/optimised.onnx"
        onnxruntime.InferenceSession(str(step), options, ["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    counts = collections.Counter(node.op_type for node in graph.node)
    print("ONNX Runtime runs a step as:", ", ".join(f"{op} {n}" for op, n in counts.most_common(12)), flush=True)


def openvino_layers(depth: int) -> None:
    from latentc_runtime.backends.openvino import core

    with tempfile.TemporaryDirectory() as name:
        step = _step_file(Path(name), depth, ["target.engine=openvino", "target.precision=bf16"])
        model = core().read_model(str(step))
        model.reshape({port: _fixed(port.partial_shape, 2 * B) for port in model.inputs})
        hints = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
        runtime = core().compile_model(model, "CPU", hints).get_runtime_model()
    kinds: collections.Counter[str] = collections.Counter()
    for op in runtime.get_ordered_ops():
        info = op.get_rt_info()
        made_of = info["originalLayersNames"].astype(str) if "originalLayersNames" in info else ""
        kinds[f"{info['layerType'].astype(str)} of {made_of.count(',') + 1 if made_of else 0}"] += 1
        if "blocks.1" in made_of:
            print("  ", info["layerType"].astype(str), "<-", made_of)
    print("OpenVINO, layers of blocks.1 above; all by what they are made of:", dict(kinds.most_common(12)))


def _fixed(shape: Any, batch: int) -> list[int]:
    return [d.get_length() if d.is_static else batch for d in shape]


def _step_file(folder: Path, depth: int, settings: list[str]) -> Path:
    sampler = "sampler={kind: ddim, steps: 2, guidance: {scale: 4.0, channels: 3}}"
    random_bundle(folder / "b", "dit", "S/2", [sampler, f"backbone.depth={depth}", "target.form=host", *settings])
    return folder / "b" / "step.onnx"


if __name__ == "__main__":
    main()
