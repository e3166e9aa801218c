"""What manifest.json holds. The runtime owns this format; the compiler writes it with these same classes.

Symbols: B batch, C channels, H height, W width, T tokens, N rows of a per-step input (one a step).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from latentc_runtime import codec
from latentc_runtime.errors import BundleError

FORMAT = 2
RESULT = "out"  # the variable that holds the samples when a program has run

Dtype = Literal["f32", "f16", "f64", "i32", "i64", "bool"]
EngineName = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16"]
NUMPY: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "bool": np.bool_,
}


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
class Tokens:
    """How tokens are pixels: token v is v / (levels - 1); T = C H W tokens in the order of `image` [C, H, W]."""

    levels: int
    image: tuple[int, int, int]


@dataclass(frozen=True)
class Output:
    """One sample: [C, H, W] or [T]; `range` are the values shown black and white, null for what is no image."""

    shape: tuple[int, ...]
    dtype: Dtype
    range: tuple[float, float] | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Guidance:
    """The guidance scale where a request gives none."""

    default: float


@dataclass(frozen=True)
class ClassesSource:
    """The requested classes, [B]."""

    kind: Literal["classes"] = "classes"


@dataclass(frozen=True)
class GuidanceSource:
    """The guidance scale of each sample, [B]."""

    kind: Literal["guidance"] = "guidance"


@dataclass(frozen=True)
class NormalSource:
    """Standard normals of a stream, [B, ...]; with `per_step` N rows [N, B, ...], row i at index i."""

    kind: Literal["normal"]
    stream: str
    per_step: int | None = None


@dataclass(frozen=True)
class UniformSource:
    """Uniforms in (0, 1) of a stream, shaped as NormalSource."""

    kind: Literal["uniform"]
    stream: str
    per_step: int | None = None


@dataclass(frozen=True)
class Input:
    """An input of a whole sampler; "B" in `shape` is the batch: ["B", ...], or [N, "B", ...] per step."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]
    source: ClassesSource | GuidanceSource | NormalSource | UniformSource

    @property
    def per_step(self) -> int | None:
        """N for an input of N rows, None for one that is the same at all steps."""
        return self.source.per_step if isinstance(self.source, NormalSource | UniformSource) else None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample's part (of one row)."""
        return tuple(int(d) for d in self.shape[1 if self.per_step is None else 2 :])


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
class SamplerEntry:
    """One sampler of the bundle. Its program starts with the inputs as variables and ends with `out`.

    `max_batch` is the largest batch of one run, null for any. `why` says why the form was chosen.
    """

    steps: int
    solver: str
    form: Literal["unroll", "loop", "host"]
    guidance: Guidance | None
    max_batch: int | None
    why: str
    inputs: tuple[Input, ...]
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
    """What of the default sampler became one operator each, counted in its ONNX files, a loop's body once.

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

    `engine` is what the bundle was compiled for, `precision` what that is told to compute in. The first sampler is the
    default. ONNX files name a reference by its path here as external data. `made_from` is a sha256 of all that it was
    compiled from, by which the compiler knows a bundle that it need not make again; empty where it cannot know.
    """

    format: int
    name: str
    tool: str
    versions: dict[str, str]
    spec_sha256: str
    created: str
    family: Literal["diffusion", "flow", "tokens", "generator"]
    classes: int
    output: Output
    samplers: tuple[SamplerEntry, ...]
    weights: dict[str, Any]
    files: dict[str, FileEntry]
    references: dict[str, Reference] = field(default_factory=dict)
    engine: EngineName = "onnxruntime"  # of bundles that do not say
    precision: Precision = "fp32"
    plans: tuple[Plan, ...] = ()
    made_from: str = ""
    quantization: Quantization | None = None
    fusion: Fusion | None = None


_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"\n\}\n\Z')


def bytes_from_manifest(manifest: Manifest) -> bytes:
    """manifest.json: JSON whose last field is the sha256 of the text with 64 zeros in that field's place.

    Raises BundleError where the manifest contradicts itself.
    """
    check(manifest)
    document = {**codec.encode(manifest), "checksum": "0" * 64}
    text = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    return _with_checksum(text, hashlib.sha256(text).hexdigest().encode())


def manifest_from_bytes(text: bytes) -> Manifest:
    """Read manifest.json; BundleError names what is unknown, damaged or contradictory."""
    try:
        document = codec.parse(text)
    except codec.CodecError as error:
        raise BundleError("E0602", f"manifest.json cannot be read: {error}", _AGAIN) from None
    if not isinstance(document, dict) or "format" not in document:
        raise BundleError(
            "E0601", "manifest.json is not the manifest of a bundle: it has no `format`", "give a bundle's folder"
        )
    _check_format(document.pop("format"), document.get("tool"))
    found = _CHECKSUM.search(text)
    if not found or hashlib.sha256(_with_checksum(text, b"0" * 64)).hexdigest().encode() != found[1]:
        raise BundleError("E0602", "manifest.json does not match its checksum: it was changed or damaged", _AGAIN)
    del document["checksum"]
    try:
        manifest = codec.decode(Manifest, {"format": FORMAT, **document})
    except codec.CodecError as error:
        raise BundleError("E0602", f"manifest.json: {error}", _AGAIN) from None
    check(manifest)
    return manifest


_AGAIN = "copy the bundle again from where it was made, or compile it again with `latentc compile`"


def _with_checksum(text: bytes, checksum: bytes) -> bytes:
    end = len(text) - len(b'"\n}\n')
    return text[: end - 64] + checksum + text[end:]


def _check_format(format: object, tool: object) -> None:
    if format == FORMAT and isinstance(format, int) and not isinstance(format, bool):
        return
    by = f", written by {tool}" if isinstance(tool, str) else ""
    newer = isinstance(format, int) and format > FORMAT
    shown = json.dumps(format)[:40]
    raise BundleError(
        "E0603",
        f"the bundle has format {shown}{by}; this runtime reads format {FORMAT}",
        "update the runtime: pip install -U latentc" if newer else _AGAIN,
    )


def check(manifest: Manifest) -> None:
    """Raise BundleError where the manifest contradicts itself: unknown files, undefined variables, odd sizes."""
    for place, message in _contradictions(manifest):
        raise BundleError("E0602", f"manifest.json: {place}: {message}", _AGAIN)


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    output = manifest.output
    if manifest.classes < 0:
        yield "classes", "expected 0 or more"
    if not output.shape or min(output.shape) < 1:
        yield "output.shape", "expected sizes of 1 and more"
    if output.range is not None and not output.range[0] < output.range[1]:
        yield "output.range", "expected [low, high]"
    if tokens := output.tokens:
        if tokens.levels < 2 or min(tokens.image) < 1:
            yield "output.tokens", "expected 2 levels or more and sizes of 1 and more"
        if math.prod(tokens.image) != math.prod(output.shape):
            yield "output.tokens.image", f"{list(tokens.image)} does not hold {list(output.shape)} tokens"
    for kind, entries in (("files", manifest.files), ("references", manifest.references)):
        for path, entry in entries.items():
            if not re.fullmatch("[0-9a-f]{64}", entry.sha256) or entry.size < 0:
                yield f"{kind}.{path}", "expected a sha256 of 64 hex digits and a size of 0 or more"
    for path in manifest.references.keys() & manifest.files.keys():
        yield f"references.{path}", "the path is also in `files`"
    for i, plan in enumerate(manifest.plans):
        for name, file in (("file", plan.file), ("plan", plan.plan)):
            if file not in manifest.files:
                yield f"plans[{i}].{name}", f"`{file}` is not in `files`"
        if not plan.profiles or any(not 1 <= least <= best <= most for least, best, most in plan.profiles):
            yield f"plans[{i}].profiles", "expected at least one [least, best, most] of 1 and more, in this order"
        if not re.fullmatch(r"sm\d{2,3}", plan.capability):
            yield f"plans[{i}].capability", "expected the name of a compute capability, such as sm89"
    if (made := manifest.quantization) is not None:
        if made.plan not in manifest.files:
            yield "quantization.plan", f"`{made.plan}` is not in `files`"
        if not 0 < made.layers <= made.of:
            yield "quantization.layers", f"expected 1 to {made.of}"
    if not manifest.samplers:
        yield "samplers", "expected at least one"
    if len({s.steps for s in manifest.samplers}) < len(manifest.samplers):
        yield "samplers", "two samplers have the same number of steps"
    for i, sampler in enumerate(manifest.samplers):
        yield from _sampler_contradictions(sampler, f"samplers[{i}]", manifest)


def _sampler_contradictions(s: SamplerEntry, place: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    if s.steps < 1:
        yield f"{place}.steps", "expected 1 or more"
    if s.max_batch is not None and s.max_batch < 1:
        yield f"{place}.max_batch", "expected 1 or more"
    inputs: dict[str, Input] = {}
    for i, entry in enumerate(s.inputs):
        where = f"{place}.inputs[{i}]"
        if entry.name in inputs:
            yield f"{where}.name", f"a second input `{entry.name}`"
        inputs[entry.name] = entry
        lead = ("B",) if entry.per_step is None else (entry.per_step, "B")
        rest = entry.shape[len(lead) :]
        if entry.shape[: len(lead)] != lead or not all(isinstance(d, int) and d >= 1 for d in rest):
            yield f"{where}.shape", f"expected {json.dumps(list(lead))} and sizes"
        if entry.per_step is not None and entry.per_step < 1:
            yield f"{where}.source.per_step", "expected 1 or more"
        if rest and not isinstance(entry.source, NormalSource | UniformSource):
            yield f"{where}.shape", 'expected ["B"]'
    takes_guidance = any(isinstance(entry.source, GuidanceSource) for entry in s.inputs)
    if takes_guidance != (s.guidance is not None):
        yield f"{place}.guidance", "a guidance input and a default go together"
    known = set(inputs)
    yield from _program_contradictions(s.program, f"{place}.program", known, inputs, (), manifest)
    if RESULT not in known:
        yield f"{place}.program", f"nothing sets `{RESULT}`"


def _program_contradictions(
    program: Sequence[Statement],
    place: str,
    known: set[str],
    inputs: dict[str, Input],
    around: tuple[int, ...],
    manifest: Manifest,
) -> Iterator[tuple[str, str]]:
    """Contradictions of statements in loops of `around` steps; adds what they define to `known`."""
    for i, s in enumerate(program):
        where = f"{place}[{i}]"
        if isinstance(s, EngineCall):
            if s.file not in manifest.files:
                yield f"{where}.file", f"`{s.file}` is not in `files`"
            for variable in s.inputs.values():
                if variable not in known:
                    yield f"{where}.inputs", f"`{variable}` is not set before"
            for output, name in s.shared.items():
                if output not in s.outputs.values() or name not in s.inputs:
                    yield f"{where}.shared.{output}", "expected an output of the call, and one of its inputs"
            known.update(s.outputs)
            continue
        if s.trip < 1:
            yield f"{where}.trip", "expected 1 or more"
        for variable, table in s.tables.items():
            if len(table) != s.trip or not _is_table(table):
                yield f"{where}.tables.{variable}", f"expected {s.trip} rows of numbers, all of one shape"
        trips = (*around, s.trip)
        for variable, rows in s.noise.items():
            total = inputs[rows.input].per_step if rows.input in inputs else None
            if total is None:
                yield f"{where}.noise.{variable}.input", "expected the name of an input with a row a step"
            elif len(rows.strides) != len(trips) or min(rows.first, *rows.strides) < 0:
                yield f"{where}.noise.{variable}", f"expected a first row and {len(trips)} strides, none negative"
            elif (last := rows.first + sum((n - 1) * k for n, k in zip(trips, rows.strides, strict=True))) >= total:
                yield f"{where}.noise.{variable}", f"row {last} of an input that has {total}"
        inner = known | s.tables.keys() | s.noise.keys() | ({s.index} if s.index else set())
        yield from _program_contradictions(s.body, f"{where}.body", inner, inputs, trips, manifest)
        for variable, new in s.carried:
            if variable not in known:
                yield f"{where}.carried", f"`{variable}` is not set before the loop"
            if new not in inner:
                yield f"{where}.carried", f"`{new}` is not set in the loop"


def _is_table(rows: Sequence[Any]) -> bool:
    try:
        table = np.array(rows)
    except ValueError:  # rows of unequal shapes
        return False
    return table.dtype.kind in "iuf" and bool(np.isfinite(table).all())
