"""Bundles of a few bytes with sums that numpy can check, built with the onnx package.

Symbols: B batch, N steps, T tokens.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from latentc_runtime import noise
from latentc_runtime.bundle import write_manifest
from latentc_runtime.hashes import HashCache
from latentc_runtime.manifest import (
    FORMAT,
    EngineCall,
    Loop,
    Manifest,
    Output,
    ProgramEntry,
    ProgramOutput,
    Rows,
)
from latentc_runtime.sources import Condition, ConditionSource, Input, RandomSource, Setting, SettingSource

F, INT = TensorProto.FLOAT, TensorProto.INT64
STEPS = 3
SHAPE = (1, 2, 2)
PICTURE = Output(SHAPE, "f32", "image", ("channel", "height", "width"), (-1.0, 1.0))
BIAS = np.arange(4, dtype=np.float32).reshape(SHAPE) / 8
TABLE = (0.5, 0.25, 0.125)


def value(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def constant(name, array):
    return onnx.numpy_helper.from_array(np.asarray(array), name)


def external(name, array, location, offset):
    """An initializer whose numbers lie in another file."""
    tensor = TensorProto(name=name, data_type=F, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, entry in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def update(x, noise, a, result):
    """Nodes of one step: result = a x + bias + y / 10 + w / 100 + noise."""
    n = helper.make_node
    return [
        n("Mul", [x, a], [f"{result}_0"]),
        n("Add", [f"{result}_0", "bias"], [f"{result}_1"]),
        n("Cast", ["y"], [f"{result}_y"], to=F),
        n("Mul", [f"{result}_y", "tenth"], [f"{result}_2"]),
        n("Mul", ["w", "hundredth"], [f"{result}_3"]),
        n("Add", [f"{result}_2", f"{result}_3"], [f"{result}_4"]),
        n("Reshape", [f"{result}_4", "column"], [f"{result}_5"]),
        n("Add", [f"{result}_1", f"{result}_5"], [f"{result}_6"]),
        n("Add", [f"{result}_6", noise], [result]),
    ]


CONSTANTS = (
    constant("tenth", np.float32(0.1)),
    constant("hundredth", np.float32(0.01)),
    constant("column", np.array([-1, 1, 1, 1])),
)


def expected(classes, seeds, guidance, noises=None):
    """What the loop and host bundles give: f32[B, 1, 2, 2]."""
    x = noise.normals(seeds, "x", SHAPE) if noises is None else noises["x"]
    rows = noise.normals(seeds, "step", SHAPE, range(STEPS)) if noises is None else noises["n"]
    for step in range(STEPS):
        extra = (np.asarray(classes) / 10 + np.asarray(guidance) / 100).reshape(-1, 1, 1, 1)
        x = TABLE[step] * x + BIAS + extra + rows[step]
    return x


INPUTS = (
    Input("x", "f32", ("B", *SHAPE), RandomSource("normal", "x")),
    Input("y", "i64", ("B",), ConditionSource("class")),
    Input("w", "f32", ("B",), SettingSource("guidance")),
    Input("n", "f32", (STEPS, "B", *SHAPE), RandomSource("normal", "step", STEPS)),
)


CLASS = Condition("class", "label", classes=10)
GUIDANCE = Setting("guidance", 4.0)


def write(folder, programs, output, names, references=None, conditions=(CLASS,), settings=(GUIDANCE,)):
    outputs = (ProgramOutput("samples", "out", output),)
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        tool="latentc 0",
        versions={"onnx": onnx.__version__},
        spec_sha256="0" * 64,
        created="2026-01-01T00:00:00Z",
        conditions=conditions,
        settings=settings,
        programs=tuple(program if program.outputs else replace(program, outputs=outputs) for program in programs),
        weights={"source": "none"},
        files=HashCache().hashes({name: folder / name for name in names}),
        references=references or {},
    )
    write_manifest(folder, manifest)
    return folder


def write_weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(64) + BIAS.tobytes())


def loop_bundle(folder, references=None, **changes):
    """The whole sampler in one ONNX Loop, weights in a file beside it (or referenced)."""
    folder.mkdir(exist_ok=True)
    if references is None:
        write_weights(folder / "weights" / "tiny.bin")
    n = helper.make_node
    body = helper.make_graph(
        [
            n("Gather", ["table", "i"], ["a"]),
            n("Gather", ["n", "i"], ["row"]),
            *update("x_in", "row", "a", "x_out"),
            n("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [value("i", INT), value("go", TensorProto.BOOL), value("x_in", F, "B", *SHAPE)],
        [value("go_out", TensorProto.BOOL), value("x_out", F, "B", *SHAPE)],
    )
    save(
        folder / "sample.onnx",
        [n("Loop", ["trip", "true", "x"], ["samples"], body=body)],
        [value("x", F, "B", *SHAPE), value("y", INT, "B"), value("w", F, "B"), value("n", F, STEPS, "B", *SHAPE)],
        [value("samples", F, "B", *SHAPE)],
        [
            *CONSTANTS,
            external("bias", BIAS, "weights/tiny.bin", 64),
            constant("table", np.array(TABLE, np.float32)),
            constant("trip", np.int64(STEPS)),
            constant("true", np.bool_(True)),
        ],
    )
    entry = ProgramEntry(
        name="sample",
        steps=STEPS,
        solver="toy",
        form="loop",
        max_batch=None,
        why="a test",
        outputs=(),
        inputs=INPUTS,
        program=(EngineCall("engine", "sample.onnx", {i.name: i.name for i in INPUTS}, {"out": "samples"}),),
    )
    names = ["sample.onnx"] + ([] if references else ["weights/tiny.bin"])
    return write(folder, [replace(entry, **changes)], PICTURE, names, references)


def host_bundle(folder, **changes):
    """A step engine driven by the host: table rows, per-step noise, a carried variable."""
    folder.mkdir(exist_ok=True)
    save(
        folder / "step.onnx",
        update("x", "noise", "a", "next"),
        [
            value("x", F, "B", *SHAPE),
            value("y", INT, "B"),
            value("w", F, "B"),
            value("a", F),
            value("noise", F, "B", *SHAPE),
        ],
        [value("next", F, "B", *SHAPE)],
        [*CONSTANTS, constant("bias", BIAS)],
    )
    step = EngineCall(
        "engine",
        "step.onnx",
        {"x": "out", "y": "y", "w": "w", "a": "a", "noise": "row"},
        {"x_next": "next"},
    )
    loop = Loop("loop", STEPS, (step,), {"a": TABLE}, {"row": Rows("n", 0, (1,))}, (("out", "x_next"),))
    entry = ProgramEntry(
        name="sample",
        steps=STEPS,
        solver="toy",
        form="host",
        max_batch=None,
        why="a test",
        outputs=(),
        inputs=(replace(INPUTS[0], name="out"), *INPUTS[1:]),
        program=(loop,),
    )
    return write(folder, [replace(entry, **changes)], PICTURE, ["step.onnx"])


def unconditional_bundle(folder):
    """The noise itself, of a model without a class."""
    folder.mkdir(exist_ok=True)
    x = [value(name, F, "B", *SHAPE) for name in ("x", "y")]
    save(folder / "sample.onnx", [helper.make_node("Identity", ["x"], ["y"])], x[:1], x[1:])
    call = EngineCall("engine", "sample.onnx", {"x": "x"}, {"out": "y"})
    entry = ProgramEntry("sample", 1, "toy", "unroll", None, "a test", INPUTS[:1], (), (call,))
    return write(folder, [entry], PICTURE, ["sample.onnx"], conditions=(), settings=())


LEVELS, TOKENS = 5, 4


def token_bundle(folder):
    """Tokens i64[B, T] from one uniform each: (floor(5 u) + y) mod 5."""
    folder.mkdir(exist_ok=True)
    n = helper.make_node
    save(
        folder / "sample.onnx",
        [
            n("Mul", ["u", "levels_f"], ["scaled"]),
            n("Floor", ["scaled"], ["floor"]),
            n("Cast", ["floor"], ["level"], to=INT),
            n("Add", ["level", "y"], ["sum"]),
            n("Mod", ["sum", "levels"], ["by_position"]),
            n("Transpose", ["by_position"], ["tokens"], perm=[1, 0]),
        ],
        [value("u", F, TOKENS, "B"), value("y", INT, "B")],
        [value("tokens", INT, "B", TOKENS)],
        [constant("levels_f", np.float32(LEVELS)), constant("levels", np.int64(LEVELS))],
    )
    entry = ProgramEntry(
        name="sample",
        steps=TOKENS,
        solver="autoregressive",
        form="loop",
        max_batch=2,
        why="a test",
        outputs=(),
        inputs=(
            Input("u", "f32", (TOKENS, "B"), RandomSource("uniform", "token", TOKENS)),
            Input("y", "i64", ("B",), ConditionSource("class")),
        ),
        program=(EngineCall("engine", "sample.onnx", {"u": "u", "y": "y"}, {"out": "tokens"}),),
    )
    output = Output((TOKENS,), "i64", "image", ("token",), classes=LEVELS, grid=(2, 2))
    return write(folder, [entry], output, ["sample.onnx"], settings=())
