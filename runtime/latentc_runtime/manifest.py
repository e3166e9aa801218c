"""The content of manifest.json. The runtime owns this format; the compiler writes it with the same classes.

Symbols: B batch, N rows of a per-step input (one per step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from latentc_runtime.chunks import Chunk, described_rows
from latentc_runtime.request_checks import described
from latentc_runtime.sources import Condition, Dtype, Input, Setting, needed

FORMAT = 3
RESULT = "out"  # the variable that holds the first output at the end of a program

EngineName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16"]
Medium = Literal["image", "video", "audio", "points", "text", "array"]


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: sha256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Reference:
    """A weight file outside the bundle (`--by-reference`): `location` is its absolute path."""

    sha256: str
    size: int
    location: str


@dataclass(frozen=True)
class Output:
    """One sample: an array of any rank, and how it is written and shown.

    axes: names of its axes; empty for medium "array". range: the values of black and white, or full scale.
    classes: samples are integers from 0 to classes - 1. rate: samples or frames per second.
    grid: the grid that a sequence of tokens fills row by row. alphabet: the characters of text tokens. tokenizer: the
    file of the bundle that says what text tokens are. start, end: the tokens that begin and end a text.
    """

    shape: tuple[int, ...]
    dtype: Dtype
    medium: Medium = "array"
    axes: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    classes: int | None = None
    rate: float | None = None
    grid: tuple[int, ...] | None = None
    alphabet: str | None = None
    tokenizer: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class EngineCall:
    """Run an engine file: `inputs` {engine input: variable}, `outputs` {variable: engine output}.

    `shared` {engine output: engine input}: the output is that input partly overwritten (a growing key-value cache), and
    nothing else reads the input, so the engine may write to its memory.
    """

    op: Literal["engine"]
    file: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    shared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows of the per-step input `input`: row `first` + step x stride of each enclosing loop, the outermost first."""

    input: str
    first: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """Run `body` `trip` times.

    `tables` {variable: rows}: row i at step i, a number or nested lists of numbers.
    `noise` {variable: rows of a per-step input}, each drawn at its step.
    `carried` [variable, new variable]: after each step the variables are assigned the new ones' values, all at once.
    They exist before the loop and keep their last values after it. Other variables of the body are local to a step.
    `index`: a variable that holds the step, i64[]. `until`: a carried variable, bool[], that ends the loop once it is
    true; further steps would change nothing.
    """

    op: Literal["loop"]
    trip: int
    body: tuple[EngineCall | Loop, ...]
    tables: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    noise: dict[str, Rows] = field(default_factory=dict)
    carried: tuple[tuple[str, str], ...] = ()
    index: str | None = None
    until: str | None = None


Statement = EngineCall | Loop


@dataclass(frozen=True)
class ProgramOutput:
    """An output of a program: its name, the variable that holds it at the end, and the description of a sample."""

    name: str
    variable: str
    output: Output

    def with_rows(self, chunk: Chunk, rows: int, sides: tuple[int, ...] | None) -> ProgramOutput:
        """The output of a request of so many rows: [P, …], or on a grid [channels, *sides], an image if it is one."""
        own = self.output
        if sides is None or chunk.grid is None:
            return replace(self, output=replace(own, shape=(rows, *own.shape[1:])))
        axes = ("channel", *chunk.grid.axes)
        picture = chunk.grid.axes == ("height", "width") and own.range is not None and own.shape[1] in (1, 3)
        medium: Medium = "image" if picture else own.medium
        return replace(self, output=replace(own, shape=(own.shape[1], *sides), axes=axes, medium=medium))


@dataclass(frozen=True)
class ProgramEntry:
    """A program of the bundle: `sample`, `encode`, …. Its statements start with the inputs as variables.

    Programs of the same name differ in `steps`; the first is the default. `max_batch` is the largest batch of one run,
    null for no limit. `why`: the reason for the form. `branches`: of `exit_step`, the numbers of the predictions that
    each step takes under guidance (see `exits`). `chunk`: of a program of any number of rows.
    """

    name: str
    steps: int
    solver: str
    form: Literal["unroll", "loop", "host"]
    max_batch: int | None
    why: str
    inputs: tuple[Input, ...]
    outputs: tuple[ProgramOutput, ...]
    program: tuple[EngineCall | Loop, ...]
    branches: tuple[tuple[int, ...], ...] = ()
    chunk: Chunk | None = None

    @property
    def shown(self) -> Output:
        """The first output, as it is shown: of rows that may be a grid, that of one of 64 points per axis."""
        first = self.outputs[0]
        if self.chunk is None or self.chunk.grid is None:
            return first.output
        sides = (64,) * len(self.chunk.grid.axes)
        return first.with_rows(self.chunk, math.prod(sides), sides).output


@dataclass(frozen=True)
class Plan:
    """A plan of TensorRT or TensorRT-RTX built from the engine file `file`, which it replaces on GPUs that it fits.

    version: of the library that built it. capability: of the GPU ("sm89").
    profiles: (smallest, optimal, largest number of samples) of a run.
    fused_attentions: kernels in it that compute a whole attention.
    hardware_compatible: it also runs on later GPUs. version_compatible: it also runs on later library versions.
    stripped: it gets its weights from those of `file`.
    driver: CUDA version of the driver, if a GPU built it.
    """

    file: str
    plan: str
    engine: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    capability: str
    precision: Precision
    profiles: tuple[tuple[int, int, int], ...]
    fused_attentions: int = 0
    hardware_compatible: bool = False
    version_compatible: bool = False
    stripped: bool = False
    driver: str | None = None


@dataclass(frozen=True)
class Fusion:
    """Counts of single operators in the ONNX files of the default program; a loop's body counts once.

    `attentions`: number in the model, of which `operators` are one operator each. `merged`: linear layers that are
    computed together with others.
    """

    attentions: int
    operators: int
    norms: int
    activations: int
    merged: int


@dataclass(frozen=True)
class Quantization:
    """How the networks were quantised, and the measurements of compile.

    layers, of: number of quantised layers, and of all layers that can be. plan: the file with the scheme of each layer.
    psnr: dB of samples against float32. perplexity: its relative increase (tokens). agreement: fraction of most likely
    tokens that stay the same. metrics: figures that the budget bounds. judged: the engine that measured these.
    speedup: over the unquantised engine at batch size `batch`; null if it was not measured.
    forced: the bundle was written although it exceeds its budget. notes: deviations from the request.
    """

    scheme: str
    layers: int
    of: int
    plan: str
    psnr: float | None = None
    perplexity: float | None = None
    agreement: float | None = None
    judged: str = ""
    speedup: float | None = None
    batch: int | None = None
    forced: bool = False
    notes: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json. `files` and `references` are by path within the bundle.

    `conditions` and `settings` are what requests may give; a program's inputs determine which it uses. The first
    program is the default. `engine`: the one that the bundle was compiled for, in `precision`. ONNX files refer to
    `references` by their path here, as external data. `made_from`: sha256 of everything that the bundle was compiled
    from, by which compile recognises an up-to-date bundle; empty if unknown.
    """

    format: int
    name: str
    tool: str
    versions: dict[str, str]
    spec_sha256: str
    created: str
    conditions: tuple[Condition, ...]
    settings: tuple[Setting, ...]
    programs: tuple[ProgramEntry, ...]
    weights: dict[str, Any]
    files: dict[str, FileEntry]
    references: dict[str, Reference] = field(default_factory=dict)
    engine: EngineName = "onnxruntime"
    precision: Precision = "fp32"
    plans: tuple[Plan, ...] = ()
    made_from: str = ""
    quantization: Quantization | None = None
    fusion: Fusion | None = None

    def takes(self, condition: Condition) -> str:
        """The values that a condition takes, and how to give them."""
        chunks = [p.chunk for p in self.programs if p.chunk is not None and condition.name in p.chunk.conditions]
        return described_rows(condition, chunks[0]) if chunks else described(condition)

    @property
    def output(self) -> Output:
        """The first output of the default program."""
        return self.programs[0].outputs[0].output

    def conditions_of(self, program: ProgramEntry) -> tuple[Condition, ...]:
        """The conditions that a program's inputs come from."""
        names, _ = needed(program.inputs)
        return tuple(c for c in self.conditions if c.name in names)

    def settings_of(self, program: ProgramEntry) -> tuple[Setting, ...]:
        """The settings that a program's inputs come from."""
        _, names = needed(program.inputs)
        return tuple(s for s in self.settings if s.name in names)
