"""What manifest.json holds. The runtime owns this format; the compiler writes it with these same classes.

Symbols: B batch, C channels, H height, W width, T tokens, N rows of a per-step input (one a step).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from latentc_runtime.sources import Condition, Dtype, Input, Setting, needed

FORMAT = 3
RESULT = "out"  # the variable that holds the first output when a program has run

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
    """A weight file left where it lies (`--by-reference`): `location` is its absolute path."""

    sha256: str
    size: int
    location: str


@dataclass(frozen=True)
class Output:
    """One sample: an array of any rank, and how its medium is written and shown.

    `axes` are the names of its axes (none: an array of no medium). `range`: the values shown as black and white, or at
    full scale. `classes`: samples are integers from 0 to classes - 1. `rate`: samples or frames per second. `grid`:
    what a sequence of tokens fills, row by row. `alphabet`: the characters of text tokens.
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


@dataclass(frozen=True)
class EngineCall:
    """Run an engine file: `inputs` {engine input: variable}, `outputs` {variable: engine output}.

    `shared` {engine output: engine input}: that input is read by nothing else, so the engine may write the output in
    its place where it updates it in part (a key-value cache that grows).
    """

    op: Literal["engine"]
    file: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    shared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Rows of the per-step input `input`: row `first` plus step x stride of each loop around, the outermost first."""

    input: str
    first: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Loop:
    """Run `body` `trip` times.

    `tables` {variable: rows}: row i at step i, a number or nested lists of numbers.
    `noise` {variable: rows of a per-step input}, each made only at its step.
    `carried` [variable, new variable]: after each step the variable takes the new one's value, all at once;
    the variable exists before the loop and keeps its last value after it. Other variables of the body do not
    outlive the step. `index`: a variable that holds the step, i64[].
    """

    op: Literal["loop"]
    trip: int
    body: tuple[EngineCall | Loop, ...]
    tables: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    noise: dict[str, Rows] = field(default_factory=dict)
    carried: tuple[tuple[str, str], ...] = ()
    index: str | None = None


Statement = EngineCall | Loop


@dataclass(frozen=True)
class ProgramOutput:
    """An output of a program: its name, the variable that holds it when the program has run, and what a sample is."""

    name: str
    variable: str
    output: Output


@dataclass(frozen=True)
class ProgramEntry:
    """A program of the bundle: `sample`, `encode`, …. Its statements start with the inputs as variables.

    Several programs of one name differ in `steps`; the first is the default. `max_batch` is the largest batch of one
    run, null for any. `why` says why the form was chosen.
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


@dataclass(frozen=True)
class Plan:
    """A plan of TensorRT or TensorRT-RTX made from the engine file `file`, which it stands for on GPUs it fits.

    `version` is that of the library that made it, `capability` that of the GPU ("sm89"). `profiles` are the least,
    best and most samples of a run. `fused_attentions`: kernels in it that hold a whole attention. A
    `hardware_compatible` plan runs on later GPUs too, a `version_compatible` one on later versions; one that is
    `stripped` gets its weights from those of `file`. `driver` is the CUDA version of the driver that it was made with,
    where a GPU made it.
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
    """What of the default program became one operator each, counted in its ONNX files, a loop's body once.

    `attentions` is how many the model has; `merged` counts linear layers that are computed as one with others.
    """

    attentions: int
    operators: int
    norms: int
    activations: int
    merged: int


@dataclass(frozen=True)
class Quantization:
    """How layers of the networks were quantised, and what was measured of it when the bundle was made.

    `layers` of `of` are quantised, by `scheme`; samples are within `psnr` dB of float32 (of tokens: `perplexity` is
    higher by this share, `agreement` is the share of likeliest tokens that stay), as `judged` by an engine. `speedup`:
    times as fast as unquantised at batch `batch`, null where that was not measured. `forced`: beyond its budget, and
    built all the same; `notes` say what was not as asked. `plan` is the file with the scheme of each layer.
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


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json. `files` and `references` are by path within the bundle.

    `conditions` and `settings` are what requests may give; the inputs of a program say which it needs. The first
    program is the default. `engine` is what the bundle was compiled for, `precision` what it is told to compute in.
    ONNX files name a reference by its path here as external data. `made_from` is a sha256 of all that it was compiled
    from, by which the compiler recognises a bundle that is up to date; empty if that is unknown.
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
    engine: EngineName = "onnxruntime"  # of bundles that do not say
    precision: Precision = "fp32"
    plans: tuple[Plan, ...] = ()
    made_from: str = ""
    quantization: Quantization | None = None
    fusion: Fusion | None = None

    @property
    def output(self) -> Output:
        """What the default program makes of each sample, its first output."""
        return self.programs[0].outputs[0].output

    def conditions_of(self, program: ProgramEntry) -> tuple[Condition, ...]:
        """The conditions that a program's inputs come from."""
        names, _ = needed(program.inputs)
        return tuple(c for c in self.conditions if c.name in names)

    def settings_of(self, program: ProgramEntry) -> tuple[Setting, ...]:
        """The settings that a program's inputs come from."""
        _, names = needed(program.inputs)
        return tuple(s for s in self.settings if s.name in names)
