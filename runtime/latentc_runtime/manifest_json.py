"""Writing, reading and checking manifest.json; `manifest` defines its content."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentc_runtime import codec
from latentc_runtime.class_names import LONGEST, is_name
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import (
    FORMAT,
    EngineCall,
    Manifest,
    Output,
    ProgramEntry,
    Statement,
)
from latentc_runtime.sources import Condition, ConditionSource, Input, RandomSource, Setting, needed

MOST_NUMBERS = 1 << 40  # of an input or output, for one sample: more than any machine holds
MOST_AXES = 16  # NumPy has at most 32, some of which a batch and a grid of pictures take
MOST_CLASSES = 1 << 31
MOST_ROWS = 1 << 32  # of a per-step input: the counter of random numbers has 32 bits for them
MOST_STEPS = 1 << 24  # of a loop
FASTEST = 1e7  # samples per second
_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{64})"\n\}\n\Z')


def bytes_from_manifest(manifest: Manifest) -> bytes:
    """manifest.json: JSON whose last field is the sha256 of the text with 64 zeros in that field.

    Raises BundleError if the manifest contradicts itself.
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
        raise BundleError("E0602", f"manifest.json cannot be read: {error}", AGAIN) from None
    if not isinstance(document, dict) or "format" not in document:
        raise BundleError(
            "E0601", "manifest.json is not the manifest of a bundle: it has no `format`", "give a bundle's folder"
        )
    _check_format(document)
    del document["format"]
    found = _CHECKSUM.search(text)
    if not found or hashlib.sha256(_with_checksum(text, b"0" * 64)).hexdigest().encode() != found[1]:
        raise BundleError("E0602", "manifest.json does not match its checksum: it was changed or damaged", AGAIN)
    del document["checksum"]
    try:
        manifest = codec.decode(Manifest, {"format": FORMAT, **document})
    except codec.CodecError as error:
        raise BundleError("E0602", f"manifest.json: {error}", AGAIN) from None
    check(manifest)
    return manifest


AGAIN = "copy the bundle again from where it was made, or compile it again with `latentc compile`"


def _with_checksum(text: bytes, checksum: bytes) -> bytes:
    end = len(text) - len(b'"\n}\n')
    return text[: end - 64] + checksum + text[end:]


def _check_format(document: dict[str, Any]) -> None:
    format, tool = document["format"], document.get("tool")
    if format == FORMAT and isinstance(format, int) and not isinstance(format, bool):
        return
    by = f", written by {tool}" if isinstance(tool, str) else ""
    newer = isinstance(format, int) and format > FORMAT
    shown = json.dumps(format)[:40]
    raise BundleError(
        "E0603",
        f"the bundle has format {shown}{by}; this runtime reads format {FORMAT}",
        "update the runtime: pip install -U latentc" if newer else _recompile(document.get("weights")),
    )


def _recompile(weights: object) -> str:
    """The command that compiles a bundle again, with the weights that its manifest names."""
    known = {k: v for k, v in weights.items() if isinstance(v, str)} if isinstance(weights, dict) else {}
    flags = "".join(f" --{name} {known[name]}" for name in ("names", "key") if name in known)
    command = f"latentc compile spec.yaml --weights {known.get('file', 'FILE')}{flags} -o BUNDLE"
    return f"compile it again from the spec that it contains: `{command}`"


def check(manifest: Manifest) -> None:
    """Raises BundleError if the manifest contradicts itself: unknown files, undefined variables, wrong sizes."""
    for place, message in _contradictions(manifest):
        raise BundleError("E0602", f"manifest.json: {place}: {message}", AGAIN)


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for i, condition in enumerate(manifest.conditions):
        for message in _condition_contradictions(condition):
            yield f"conditions[{i}]", message
        if condition.tokenizer is not None and condition.tokenizer not in manifest.files:
            yield f"conditions[{i}].tokenizer", f"`{condition.tokenizer}` is not in `files`"
    for i, setting in enumerate(manifest.settings):
        for message in _setting_contradictions(setting):
            yield f"settings[{i}]", message
        if setting.above is not None and setting.above not in {other.name for other in manifest.settings} - {
            setting.name
        }:
            yield f"settings[{i}].above", f"`{setting.above}` is no other setting"
    for kind, names in (
        ("conditions", [c.name for c in manifest.conditions]),
        ("settings", [s.name for s in manifest.settings]),
    ):
        if len(set(names)) < len(names):
            yield kind, "two have the same name"
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
    if not manifest.programs:
        yield "programs", "expected at least one"
    if len({(p.name, p.steps) for p in manifest.programs}) < len(manifest.programs):
        yield "programs", "two programs have the same name and number of steps"
    known = {c.name for c in manifest.conditions} & {p.name.removeprefix("query_") for p in manifest.programs}
    for i, condition in enumerate(manifest.conditions):
        if not known.issuperset(condition.queries):
            yield f"conditions[{i}].queries", "expected conditions that programs `query_NAME` encode"
    for i, program in enumerate(manifest.programs):
        yield from _entry_contradictions(program, f"programs[{i}]", manifest)


def _condition_contradictions(c: Condition) -> Iterator[str]:
    if wrong := _wrong_shape(c.shape):
        yield f"shape: {wrong}"
        return
    for name, count in (("classes", c.classes), ("vocabulary", c.vocabulary)):
        if count is not None and count > MOST_CLASSES:
            yield f"{name}: expected at most {MOST_CLASSES}"
    if c.axes and len(c.axes) != len(c.shape):
        yield f"axes: expected {len(c.shape)} names"
    if c.form == "label" and (c.classes is None or c.classes < 1):
        yield "classes: expected 1 or more"
    if c.form == "label" and c.shape != ((c.classes,) if c.encoding == "one_hot" else ()):
        yield "shape: expected [classes] of a one-hot label, [] of an index"
    if c.names and (c.form != "label" or len(c.names) != c.classes or not all(map(is_name, c.names))):
        yield f"names: expected a printable name of up to {LONGEST} characters for each class of a label"
    if c.form == "tokens" and (c.vocabulary is None or c.vocabulary < 1 or not c.shape):
        yield "expected tokens of a vocabulary of 1 or more, in a row or a map"
    if c.mask and not c.shape:
        yield "mask: expected a shape with a first axis"
    if c.default is not None:
        try:
            np.broadcast_to(np.asarray(c.default, np.float64), c.shape)
        except (ValueError, TypeError, OverflowError):
            yield f"default: expected a number, or numbers of shape {list(c.shape)}"


def _setting_contradictions(s: Setting) -> Iterator[str]:
    low, high = (-math.inf if s.low is None else s.low), (math.inf if s.high is None else s.high)
    if not (low < high or (low == high and s.closed)):
        yield "expected `low` below `high`, or the same if both are allowed"
    if s.default is None and not s.unlimited:
        yield "default: expected a number"
    if not low <= s.value <= high:
        yield f"default: expected a number from {low:g} to {high:g}"


_AXES = {
    "image": {"channel", "height", "width"},
    "video": {"frame", "channel", "height", "width"},
    "audio": {"channel", "time"},
    "points": {"point", "coordinate"},
}


def _wrong_shape(shape: Sequence[int]) -> str | None:
    """The problem with the shape of one sample, or None."""
    if any(size < 1 for size in shape):
        return "expected sizes of 1 and more"
    if len(shape) > MOST_AXES or math.prod(shape) > MOST_NUMBERS:
        return f"expected at most {MOST_AXES} axes and {MOST_NUMBERS} numbers per sample"
    return None


def _output_contradictions(output: Output, place: str) -> Iterator[tuple[str, str]]:
    if wrong := _wrong_shape(output.shape):
        yield f"{place}.shape", wrong
        return
    if output.range is not None and not output.range[0] < output.range[1]:
        yield f"{place}.range", "expected [low, high]"
    if output.medium != "array" and len(output.axes) != len(output.shape):
        yield f"{place}.axes", f"expected the name of each axis of {list(output.shape)}"
    if output.medium in ("image", "video", "audio") and output.range is None and output.classes is None:
        yield f"{place}.range", f"expected the range of {output.medium} samples"
    if output.medium == "audio" and output.rate is None:
        yield f"{place}.rate", "expected the sampling rate"
    least = 1.0 if output.medium == "audio" else 0.01
    if output.rate is not None and not least <= output.rate <= FASTEST:
        yield f"{place}.rate", f"expected {least:g} to {FASTEST:g} per second"
    known = _AXES.get(output.medium, set(output.axes)) if output.grid is None else set(output.axes)
    if len(set(output.axes)) < len(output.axes) or not known.issuperset(output.axes):
        yield f"{place}.axes", f"expected axes of {output.medium} samples, once each: {', '.join(sorted(known))}"
    if output.medium == "text" and output.classes is None:
        yield f"{place}.classes", "expected the size of the vocabulary"
    if output.alphabet is not None and len(output.alphabet) != output.classes:
        yield f"{place}.alphabet", f"expected {output.classes} characters, one per token"
    if output.grid is not None and (
        not 1 <= len(output.grid) <= 3 or min(output.grid) < 1 or math.prod(output.grid) != math.prod(output.shape)
    ):
        yield f"{place}.grid", f"{list(output.grid)} does not hold {list(output.shape)} tokens"


def _entry_contradictions(s: ProgramEntry, place: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
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
        lead = ("B",) if entry.rows is None else (entry.rows, "B")
        rest = entry.shape[len(lead) :]
        if entry.shape[: len(lead)] != lead or not all(isinstance(d, int) and d >= 1 for d in rest):
            yield f"{where}.shape", f"expected {json.dumps(list(lead))} and sizes"
        elif math.prod([entry.rows or 1, *map(int, rest)]) > MOST_NUMBERS:
            yield f"{where}.shape", f"expected at most {MOST_NUMBERS} numbers per sample"
        elif len(rest) > MOST_AXES:
            yield f"{where}.shape", f"expected at most {MOST_AXES} axes per sample"
        if entry.rows is not None and not 1 <= entry.rows <= MOST_ROWS:
            yield f"{where}.source.rows", f"expected 1 to {MOST_ROWS}"
        yield from _source_contradictions(entry, where, manifest)
    if s.chunk is not None:
        yield from _chunk_contradictions(s, f"{place}.chunk", manifest)
    known = set(inputs)
    yield from _program_contradictions(s.program, f"{place}.program", known, inputs, (), manifest)
    if not s.outputs or len({o.name for o in s.outputs}) < len(s.outputs):
        yield f"{place}.outputs", "expected at least one, each with its own name"
    for i, made in enumerate(s.outputs):
        if made.variable not in known:
            yield f"{place}.outputs[{i}].variable", f"nothing sets `{made.variable}`"
        yield from _output_contradictions(made.output, f"{place}.outputs[{i}].output")
        if made.output.tokenizer is not None and made.output.tokenizer not in manifest.files:
            yield f"{place}.outputs[{i}].output.tokenizer", f"`{made.output.tokenizer}` is not in `files`"


def _chunk_contradictions(s: ProgramEntry, place: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    chunk, conditions = s.chunk, {c.name: c for c in manifest.conditions_of(s)}
    assert chunk is not None
    own = [conditions[name] for name in chunk.conditions if name in conditions]
    if not own or len(own) < len(chunk.conditions):
        yield f"{place}.conditions", f"expected conditions of the program: {', '.join(conditions)}"
        return
    if any(c.shape[:1] != (chunk.size,) or c.form != "array" or c.mask for c in own):
        yield f"{place}.size", f"expected arrays of {chunk.size} rows without a mask: {', '.join(chunk.conditions)}"
    if any(made.output.shape[:1] != (chunk.size,) for made in s.outputs):
        yield f"{place}.size", f"expected outputs of {chunk.size} rows"
    if any(c.default is not None and np.ndim(c.default) == len(c.shape) for c in own):
        yield f"{place}.conditions", "expected the same default for every row"
    if chunk.grid is not None:
        if not chunk.grid.axes or own[0].shape[1:] != (len(chunk.grid.axes),):
            yield f"{place}.grid.axes", f"expected one per coordinate of `{own[0].name}`"
        if any(len(made.output.shape) != 2 for made in s.outputs):
            yield f"{place}.grid", "expected outputs [rows, channels]"
        if not chunk.grid.extent > 0:
            yield f"{place}.grid.extent", "expected more than 0"


def _source_contradictions(entry: Input, where: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    conditions = {c.name: c for c in manifest.conditions}
    names, settings = needed([entry])
    for kind, unknown in (
        ("condition", set(names) - conditions.keys()),
        ("setting", set(settings) - {s.name for s in manifest.settings}),
    ):
        for name in unknown:
            yield f"{where}.source", f"there is no {kind} `{name}`"
            return
    if isinstance(entry.source, RandomSource):
        return
    shape: tuple[int, ...] = ()
    if isinstance(entry.source, ConditionSource):
        condition = conditions[entry.source.condition]
        shape = condition.shape if entry.source.part == "value" else condition.shape[:1]
        if entry.source.part == "mask" and not condition.mask:
            yield f"{where}.source", f"the condition `{condition.name}` has no mask"
    if entry.shape[1:] != shape:
        yield f"{where}.shape", f"expected {json.dumps(['B', *shape])}"


def _program_contradictions(
    program: Sequence[Statement],
    place: str,
    known: set[str],
    inputs: dict[str, Input],
    around: tuple[int, ...],
    manifest: Manifest,
) -> Iterator[tuple[str, str]]:
    """Contradictions of statements inside loops of `around` steps; adds the variables they define to `known`."""
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
        if not 1 <= s.trip <= MOST_STEPS:
            yield f"{where}.trip", f"expected 1 to {MOST_STEPS}"
        for variable, table in s.tables.items():
            if len(table) != s.trip or not _is_table(table):
                yield f"{where}.tables.{variable}", f"expected {s.trip} rows of numbers, all of one shape"
        trips = (*around, s.trip)
        for variable, rows in s.noise.items():
            total = inputs[rows.input].rows if rows.input in inputs else None
            if total is None:
                yield f"{where}.noise.{variable}.input", "expected the name of an input with a row per step"
            elif len(rows.strides) != len(trips) or min(rows.first, *rows.strides) < 0:
                yield f"{where}.noise.{variable}", f"expected a first row and {len(trips)} strides, none negative"
            elif (last := rows.first + sum((n - 1) * k for n, k in zip(trips, rows.strides, strict=True))) >= total:
                yield f"{where}.noise.{variable}", f"row {last} of an input that has {total}"
        inner = known | s.tables.keys() | s.noise.keys() | ({s.index} if s.index else set())
        yield from _program_contradictions(s.body, f"{where}.body", inner, inputs, trips, manifest)
        if s.until is not None and s.until not in dict(s.carried):
            yield f"{where}.until", f"`{s.until}` is not carried by the loop"
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
