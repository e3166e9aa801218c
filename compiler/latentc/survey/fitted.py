"""A first spec for data that was inspected: shape, classes, sizes, steps and batch for this machine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.spec.first import SMALL, system_file
from latentc.survey.machine import Machine
from latentc.survey.mirrored import why_not_mirrored
from latentc.survey.report import Survey, flow

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

MINUTES = {False: 30, True: 120}  # what training may take on a CPU and on a GPU
STEPS = (300, 2_000, 20_000)  # the fewest steps, those that a larger model must leave time for, the most
EPOCHS = 1_000  # passes through the data, at most
LARGEST = {False: 64, True: 256}  # sides of images in pixels
TOKENS = {False: 8, True: 16}  # patches along a side
DIGITS = 8  # pixels along a side of the images that small forms are for
NAMES = 4  # names of classes that a comment shows
DEFAULT = "dit"
OTHER = "edm"  # whose U-Net takes arrays that are not square
STEPS_HERE, BATCH_HERE, DURATION_HERE, WARMUP_HERE = "\ue000", "\ue001", "\ue002", "\ue003"  # in unfinished texts


@dataclass(frozen=True)
class Size:
    """Of the default system: width, blocks, heads, learning rate."""

    width: int
    depth: int
    heads: int
    rate: str


SMALL_SIZE = Size(64, 4, 4, "2e-3")
SIZES = {False: (Size(128, 6, 4, "1e-3"), SMALL_SIZE), True: (Size(384, 12, 6, "3e-4"), Size(128, 6, 4, "1e-3"))}


def fitted_spec(name: str, system: str | None, found: Survey, machine: Machine, file: Path) -> str:
    """The text of a spec called `name` for the data, to be written to `file`. DiagnosticError E0401, E0424.

    `system` None: DEFAULT, or OTHER if that does not fit.
    """
    try:
        return _spec_of(name, DEFAULT if system is None else system, found, machine, file)
    except DiagnosticError as error:
        problem = error.diagnostics[0]
        if problem.code != "E0424" or system == OTHER:
            raise
        try:
            text = _spec_of(name, OTHER, found, machine, file)
        except DiagnosticError:
            raise error from None
    if system is None:
        return f"# {_plain(problem.message)}.\n{text}"
    mend = f"start from another system (`--from {OTHER}` fits), or write the spec by hand: docs/spec.md"
    raise DiagnosticError.of("E0424", problem.message, help=mend)


def _spec_of(name: str, system: str, found: Survey, machine: Machine, file: Path) -> str:
    path = system_file(system)
    problem: DiagnosticError | None = None
    last: str | None = None
    for candidates in (_small_ones, _published_ones):
        for text, batch in candidates(name, path, found, machine, file):
            try:
                steps = _steps(text, file, found, machine, batch)
            except DiagnosticError as error:
                problem = problem or error
                continue
            last = _finished(text, found, batch, steps)
            if steps >= min(STEPS[1], _most_steps(found, batch)):
                return last
        if last is not None:
            return last
    why = "" if problem is None else f": {problem.diagnostics[0].message}"
    message = f"no size of `{system}` fits samples of shape {found.section.get('shape')}{why}"
    mend = "start from another system (--from), or write the spec by hand: docs/spec.md"
    raise DiagnosticError.of("E0424", message, help=mend)


def _small_ones(name: str, path: Path, found: Survey, machine: Machine, file: Path) -> Iterator[tuple[str, int]]:
    """(spec without its steps and batch, batch size) of the small form of a system, the largest first."""
    sizes = SIZES[machine.gpu] if path.stem == f"{SMALL}_{DEFAULT}" else (None,)
    if path.parent.name == SMALL:
        for side in _sides(found, machine):
            for size in sizes:
                text = _small(name, path, found, machine, _data_lines(found, file, side), side, size)
                yield text, _batch(found, 64 if not machine.gpu else 128)


def _published_ones(name: str, path: Path, found: Survey, machine: Machine, file: Path) -> Iterator[tuple[str, int]]:
    """(spec without its steps and batch, batch size) of a system at its published size."""
    system = path.stem.removeprefix(f"{SMALL}_")
    if system in shipped.shipped_specs() and _takes_arrays(system, found):
        for side in dict.fromkeys([*_sides(found, machine), None]):
            text = _published(name, system, found, machine, _data_lines(found, file, side))
            yield text, _batch(found, 8 if not machine.gpu else 64)


def _takes_arrays(system: str, found: Survey) -> bool:
    """False if a system models latents of another shape than the arrays of the data have."""
    from latentc.spec import load_spec

    data = load_spec(system).data
    held = found.shape is None or data.first_stage is None or data.first_stage.weights is not None
    return held or data.shape == tuple(found.shape or ())


def _sides(found: Survey, machine: Machine) -> list[int | None]:
    """Sides of square images to try, the largest first; None for samples of a given shape."""
    if found.shape is not None or not found.section.get("shape"):
        return [None]
    side = min(found.section["shape"][-1], LARGEST[machine.gpu])
    smaller = [2**k for k in range(7, 2, -1) if 2**k < side]
    return [side, *[s for s in smaller if s >= min(16, side)]]


def _batch(found: Survey, most: int) -> int:
    """The largest power of two of at most `most` samples, and of half of the data."""
    return int(2 ** math.floor(math.log2(max(1, min(most, found.size / 2)))))


def _most_steps(found: Survey, batch: int) -> int:
    return max(STEPS[0], min(STEPS[2], EPOCHS * found.size // batch))


# ---- the text


def _data_lines(found: Survey, file: Path, side: int | None) -> list[str]:
    """The section `data` of images of this side; of samples as they are, or as the system says, if it is None."""
    section: dict[str, Any] = dict(found.section)
    section["path"] = _path_from(file, section["path"])
    notes: dict[str, str] = {}
    if side is not None:
        section["shape"] = [found.channels, side, side]
        ends = dict.fromkeys([int(found.sides[0]), int(found.sides[-1])])
        notes["shape"] = f"the centre square, resized; short sides are {' to '.join(map(str, ends))} pixels"
    elif found.shape is None:
        section.pop("shape", None)
    if found.names:
        names = ", ".join(found.names[:NAMES]) + (", …" if len(found.names) > NAMES else "")
        notes["classes"] = "".join(c if c.isprintable() else "?" for c in names)
    if found.modes:
        why = why_not_mirrored(found)
        section["horizontal_flip"] = why is None
        notes["horizontal_flip"] = (
            "mirrored at random; false if a mirrored image would be of another class" if why is None else f"off: {why}"
        )
    if found.damaged and found.sizes and found.shape is None:
        section["damaged"] = "skip"
        notes["damaged"] = f"{len(found.damaged):,} of {found.read:,} cannot be read: `latentc data` names them"
    lines = []
    for key, value in section.items():
        text = f"  {key}: {flow(value)}"
        lines.append(f"{text:30}  # {notes[key]}" if key in notes else text)
    return ["data:", *lines]


def _path_from(file: Path, path: str) -> str:
    """A path relative to the folder of the spec, if it was relative to the current one."""
    if Path(path).is_absolute():
        return path
    return Path(os.path.relpath(path, file.parent)).as_posix()


def _head(name: str, found: Survey, machine: Machine, system: str, source: str | None) -> list[str]:
    about = f"{found.size:,} samples" + (f" of {len(found.classes)} classes" if found.classes else "")
    by = f" ({source.partition(' (')[0]})" if source else ""
    return [
        f"# {name}: {system}{by} for {_plain(found.path)}, {about}.",
        f"# `latentc init --data` chose sizes, {STEPS_HERE} steps and the batch for {machine.name}; {DURATION_HERE}.",
        "# `latentc check --data` compares this file with the data, `latentc check --resolved` shows every default.",
    ]


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _small(
    name: str, path: Path, found: Survey, machine: Machine, data: list[str], side: int | None, size: Size | None
) -> str:
    """The small form of a system for digits, changed for other data."""
    from latentc.spec import load_spec

    spec = load_spec(path.stem)
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(_without_section(lines, "data", data))
    text = re.sub(r"^name:.*$", lambda _: f'name: "{name}"', text, count=1, flags=re.M)
    patch = _patch(found, side, TOKENS[machine.gpu])
    if patch and "patch:" in text:
        text = re.sub(r"^( +patch: )\d+", rf"\g<1>{patch}", text, flags=re.M)
    elif patch and hasattr(spec.networks.get("main"), "patch") and "\nbackbone:" not in text:
        text += f"\nbackbone: {{patch: {patch}}}\n"
    if found.section.get("shape") != [1, 8, 8]:
        text = re.sub(r" +#[^\n]*\d × \d[^\n]*$", "", text, flags=re.M)  # comments on sizes of the digits
    if size is not None and min(found.section["shape"][1:], default=0) > DIGITS:
        for key, value in (("width", size.width), ("depth", size.depth)):
            words = f"  {key}: {value}"
            text = re.sub(rf"^  {key}: \d+ *", f"{words:32}", text, count=1, flags=re.M)
        text = re.sub(r"heads: \d+", f"heads: {size.heads}", text)
        text = re.sub(r"\blr: [\d.e-]+", f"lr: {size.rate}", text)
    if found.modes and found.mean:
        text = re.sub(r"sigma_data: [\d.]+", f"sigma_data: {_deviation(found):.2f}", text)
    if not found.classes:
        text = _without_classes(text, spec)
    return "\n".join(
        [*_head(name, found, machine, path.stem.removeprefix(f"{SMALL}_"), spec.source), _trained(text), ""]
    )


def _patch(found: Survey, side: int | None, most: int) -> int:
    """The smallest patch that cuts images into at most `most` along each side; 0 if the small form's own fits.

    `side`: of square images that are resized to it; None for arrays.
    """
    arrays = found.shape or ()
    if side is None and len(arrays) == 3 and arrays[1] == arrays[2] > DIGITS:
        side = arrays[1]
    least = max(1, -(-(side or 0) // most))
    return next((patch for patch in range(least, (side or 0) + 1) if side and side % patch == 0), 0)


def _deviation(found: Survey) -> float:
    """The standard deviation of all pixels from -1 to 1."""
    squares = [d**2 + m**2 for d, m in zip(found.deviation, found.mean, strict=True)]
    mean = sum(found.mean) / len(found.mean)
    return 2 * math.sqrt(max(sum(squares) / len(squares) - mean**2, 1e-4))


def _without_classes(text: str, spec: Spec) -> str:
    """A text without the label and without guidance, which it may inherit."""
    own = "\n  class:" in text
    text = re.sub(r"^  class: .*\n", "", text, flags=re.M)
    text = re.sub(r"^ +guidance: .*\n", "", text, flags=re.M)
    text = re.sub(r", guidance: \{[^}]*\}", "", text)
    if not own and "class" in spec.conditioning:
        text += "\nconditioning: {class: null}\n"
        if getattr(spec.sampler, "guidance", None) is not None and "\nsampler:" in text:
            text = re.sub(r"^sampler:\n", "sampler:\n  guidance: null\n", text, flags=re.M)
    return text


def _trained(text: str) -> str:
    """A text whose section `train` has STEPS and BATCH."""
    before, train, after = text.partition("\ntrain:\n")
    if not train:
        return f"{text.rstrip()}\n\ntrain:\n  steps: {STEPS_HERE}\n  batch_size: {BATCH_HERE}"
    after = re.sub(r"^  (steps|batch_size): .*\n", "", after, flags=re.M)
    return f"{before}{train}  steps: {STEPS_HERE}\n  batch_size: {BATCH_HERE}\n{after.rstrip()}"


def _without_section(lines: list[str], key: str, own: list[str]) -> Iterator[str]:
    """The lines with others in place of a section."""
    inside = False
    if not any(line.startswith(f"{key}:") for line in lines):
        at = next((i for i, line in enumerate(lines) if line.startswith("extends:")), 0)
        lines = [*lines[: at + 1], "", f"{key}:", *lines[at + 1 :]]
    for line in lines:
        if line.startswith(f"{key}:"):
            inside = True
            yield from own
        elif inside and line[:1] in (" ", "#"):
            continue
        else:
            inside = False
            yield line


def _published(name: str, system: str, found: Survey, machine: Machine, data: list[str]) -> str:
    """A spec that extends a published system, at its published size."""
    from latentc.spec import load_spec

    spec = load_spec(system)
    lines = [
        *_head(name, found, machine, system, spec.source),
        "latentc: 1",
        f'name: "{name}"',
        f"extends: {system}",
        "",
    ]
    stage = spec.data.first_stage
    data = data if found.classes else [*data, "  classes: 0"]
    if stage is not None:
        own: dict[str, Any] = {key: value for key, value in stage.model_dump(mode="json").items() if value is not None}
        defaults = {"shift": 0.0, "scale": 1.0}
        own = {key: value for key, value in own.items() if defaults.get(key) != value}
        data = [line for line in data if not line.startswith("  shape:")]
        if spec.data.shape is not None:
            data.append(f"  shape: {flow(list(spec.data.shape))}")
        elif spec.data.tokens is not None:
            data.append(f"  tokens: {flow(spec.data.tokens.model_dump(mode='json'))}")
        data.append(f"  first_stage: {flow(own)}")
        if stage.weights is None:
            lines.insert(
                3, "# Its first stage needs weights: `first_stage: {…, weights: FILE}`; docs/spec.md, First stages."
            )
    lines += [*data, ""]
    if not found.classes and any(one.kind == "label" for one in spec.conditioning.values()):
        labels = [key for key, one in spec.conditioning.items() if one.kind == "label"]
        lines += ["conditioning:", *(f"  {key}: null" for key in labels), ""]
        if getattr(spec.sampler, "guidance", None) is not None:
            lines += ["sampler: {guidance: null}", ""]
    usual: Any = getattr(spec.train.schedule, "warmup", 0)
    warmup = [f"  schedule: {{warmup: {WARMUP_HERE}}}"] if isinstance(usual, int) and usual > STEPS[0] // 10 else []
    return "\n".join([*lines, "train:", f"  steps: {STEPS_HERE}", f"  batch_size: {BATCH_HERE}", *warmup, ""])


# ---- steps


def _steps(text: str, file: Path, found: Survey, machine: Machine, batch: int) -> int:
    """The steps that fit into the time; checks the spec. DiagnosticError."""
    from latentc.components.read_fields import problems_of_reading
    from latentc.ir.costs import flops
    from latentc.lower import lower
    from latentc.spec import spec_from_text

    spec = spec_from_text(_with(text, batch, STEPS[0], ""), str(file))
    lowered = lower(spec)
    for problem in problems_of_reading(spec, lowered.updates):
        raise DiagnosticError.of("E0305", problem.message, help=problem.help)
    nets = {n: net for n, net in lowered.networks.items() if n != "first_stage"}
    forward = sum(flops(lowered.module, net.main.function) for net in nets.values())
    seconds = 3 * forward * batch / machine.speed  # the backward pass costs twice the forward pass
    return max(1, min(_most_steps(found, batch), int(60 * MINUTES[machine.gpu] / max(seconds, 1e-9))))


def _finished(text: str, found: Survey, batch: int, steps: int) -> str:
    digits = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    steps = max(STEPS[0], steps // digits * digits)
    passes = steps * batch / found.size
    return _with(text, batch, steps, f"{passes:.3g} passes through the data")


def _with(text: str, batch: int, steps: int, duration: str) -> str:
    given = {BATCH_HERE: str(batch), STEPS_HERE: str(steps), WARMUP_HERE: str(steps // 10), DURATION_HERE: duration}
    for place, value in given.items():
        text = text.replace(place, value)
    return text
