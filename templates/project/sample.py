"""Samples from trained weights with PyTorch.

    python sample.py --weights runs/train/weights.safetensors --class 0-9 --per-class 10 -o grid.png

Sample i has seed `seed + i`; it depends on its own seed, conditions and settings alone. `--raw out.npz`
writes the arrays.
# region conditions
`--given NAME=VALUE` gives another condition than the class, for all samples or for each.
# endregion
"""

import latentc_support.plain_errors  # noqa: F401

# isort: split

import argparse
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from latentc_support.checkpoint import of_network, read_weights
from latentc_support.class_names import classes_from_text, titles
from latentc_support.conditions import checked_given
from latentc_support.config import load_config
from latentc_support.files import encoded
from latentc_support.media import FORMATS
from latentc_support.noise import seed_words
from latentc_support.sources import Condition, Given, RequestError, Setting, default_given
from latentc_support.storage import load_tensors, misfit, with_counts, write_whole
from model import NETWORKS
from sampler import CONDITIONS, PROGRAMS, SETTINGS

# The networks that programs call, or all if there are no programs.
CALLED = {name for programs in PROGRAMS.values() for program in programs.values() for name in program.networks}
SAMPLED = [name for name in NETWORKS if name in CALLED or not CALLED]


# region reread
class Steps:
    """A per-step input [N, B, ...] whose rows, with the numbers `rows`, are computed only when they are read.

    It is indexed and reshaped like the leading axes of a tensor.
    """

    def __init__(self, rows: np.ndarray, row: Callable[[int], Tensor]):
        self.rows, self.row = rows, row

    def _of(self, rows: np.ndarray) -> Any:
        return Steps(rows, self.row) if rows.ndim else self.row(int(rows))

    def __getitem__(self, index: Any) -> Any:
        return self._of(self.rows[index])

    def unflatten(self, axis: int, sizes: tuple[int, ...]) -> Any:
        return self._of(self.rows.reshape(*self.rows.shape[:axis], *sizes, *self.rows.shape[axis + 1 :]))

    def unsqueeze(self, axis: int) -> Any:
        return self._of(np.expand_dims(self.rows, axis))

    def squeeze(self, axis: int) -> Any:
        return self._of(np.squeeze(self.rows, axis))

    def __iter__(self) -> Iterator[Any]:
        return map(self._of, self.rows)


# endregion
def inputs_of(program: Any, given: Given, device: torch.device) -> dict[str, Any]:
    """The inputs of a program, by name; normals of each step are drawn when the step reads them."""

    def tensor(array: np.ndarray) -> Tensor:
        dtype = np.float32 if array.dtype.kind == "f" else array.dtype
        return torch.from_numpy(np.array(array, dtype, order="C")).to(device)

    def steps(count: int, row: Callable[[int], np.ndarray]) -> Any:
        # region reread
        return Steps(np.arange(count), lambda index: tensor(row(index)))
        # endregion
        # region in_turn
        return map(tensor, map(row, range(count)))
        # endregion

    inputs = program.inputs(given)
    return {name: steps(*value) if isinstance(value, tuple) else tensor(value) for name, value in inputs.items()}


def program_of(name: str | None = None, steps: int | None = None, settings: dict[str, Any] | None = None) -> Any:
    """The program with that name and step count, by default the first. SystemExit if there is none.

    `settings`: arguments of its schedule.
    """
    # region unsampled
    if not PROGRAMS:
        raise SystemExit("the spec names no sampler")
    # endregion
    name = next(iter(PROGRAMS)) if name is None else name
    if name not in PROGRAMS:
        raise SystemExit(f"--program: this project has {', '.join(PROGRAMS)}")
    held = PROGRAMS[name]
    program, settings = next(iter(held.values())), dict(settings or {})
    if steps in held:
        program = held[steps]
    # region schedule
    elif steps is not None and "steps" in arguments_of(program):
        settings["steps"] = steps
    # endregion
    elif steps is not None:
        raise SystemExit(f"--steps: this project has {', '.join(map(str, held))}; emit it again for {steps}")
    # region schedule
    return with_settings(program, settings) if settings else program
    # endregion
    # region tables
    return program
    # endregion


# region schedule
def arguments_of(program: Any) -> dict[str, Any]:
    """The arguments of a program's schedule, and their defaults."""
    if program.schedule is None:
        return {}
    return {name: one.default for name, one in inspect.signature(program.schedule).parameters.items()}


def with_settings(program: Any, settings: dict[str, Any]) -> Any:
    """The program with other arguments of its schedule. SystemExit: arguments that it does not take."""
    known = arguments_of(program)
    for name in settings:
        if name not in known:
            raise SystemExit(f"--{name}: the sampler takes {', '.join(known) or 'no settings of its steps'}")
    given = ", ".join(f"{name} = {value}" for name, value in settings.items())
    try:
        tables = [part for part in program.schedule(**settings) if isinstance(part, dict)]
    except (ValueError, ArithmeticError, IndexError, MemoryError) as error:
        raise SystemExit(f"there are no such steps ({given}): {error}") from None
    usual = [sorted(part) for part in program.schedule() if isinstance(part, dict)]
    if usual != [sorted(part) for part in tables]:
        raise SystemExit(f"with {given} the steps have other coefficients: emit the project again")
    finite = all(np.all(np.isfinite(column)) for part in tables for column in part.values())
    if not finite or not any(len(part["t"]) for part in tables):
        raise SystemExit(f"there are no such steps ({given}): a coefficient is not finite, or there is none")
    rows = sum(len(part["t"]) for part in tables if "noise" in part)
    inputs = partial(program.inputs, rows=rows) if rows else program.inputs
    return replace(program, sample=partial(program.sample, **settings), inputs=inputs)


# endregion
def declared(program: Any, names: Sequence[str] = ()) -> tuple[list[Condition], list[Setting]]:
    """The conditions and settings that a program takes; labels get class names of matching number."""
    held = [
        replace(c, names=tuple(names)) if c.form == "label" and c.classes == len(names) else c
        for c in CONDITIONS
        if c.name in program.conditions
    ]
    return held, [s for s in SETTINGS if s.name in program.settings]


def names_for(weights: Path) -> list[str]:
    """Class names from class_names.txt, in this project or next to the weights."""
    for folder in (Path(__file__).parent / "latentc_support", weights, weights.parent, weights.parent.parent):
        if (file := folder / "class_names.txt").is_file():
            return file.read_text(encoding="utf-8").splitlines()
    return []


@torch.no_grad()
def draw(networks: dict[str, nn.Module], given: Given, program: Any = None, batch: int = 64) -> dict[str, Tensor]:
    """The outputs of a program by name, [B, ...] on the CPU; a sampler's first output is the samples."""
    program = program or program_of()
    models = [networks[name].eval() for name in program.networks]
    device = next(models[0].parameters()).device
    # region rows
    given = in_chunks(given, program)
    # endregion
    parts: dict[str, list[Tensor]] = {name: [] for name in program.outputs}
    for at in tqdm(range(0, len(given), batch), desc="sampling", leave=False, disable=None):
        made = program.sample(*models, **inputs_of(program, given.part(at, at + batch), device))
        for name, part in zip(parts, made if isinstance(made, tuple) else (made,), strict=True):
            parts[name].append(part.cpu())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


# region rows
def chunk_of(program: Any) -> Any:
    """The chunk of a program of any number of rows, such as points or rays; None of other programs."""
    from sampler import CHUNKS

    names = [name for name, held in PROGRAMS.items() if any(one is program for one in held.values())]
    return CHUNKS.get(names[0]) if names else None


def in_chunks(given: Given, program: Any) -> Given:
    """A request as the networks take it: of a program of any number of rows, one sample per chunk of them."""
    from latentc_support.chunks import given_in_chunks

    chunk = chunk_of(program)
    return given if chunk is None else given_in_chunks(chunk, given, given.conditions[chunk.conditions[0]].shape[1])


def whole(outputs: dict[str, Tensor], given: Given, program: Any, sides: Sequence[int] | None) -> dict[str, Tensor]:
    """The outputs of a request from those of its chunks: [B, rows, ...], or on a grid [B, channels, *sides]."""
    from latentc_support.chunks import from_chunks

    chunk = chunk_of(program)
    if chunk is None:
        return outputs
    rows = given.conditions[chunk.conditions[0]].shape[1]
    found = {name: from_chunks(x.numpy(), len(given), rows, sides) for name, x in outputs.items()}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def rows_of(
    program: Any, conditions: Sequence[Condition], values: dict[str, Any]
) -> tuple[Sequence[Condition], dict[str, Any], Sequence[int] | None]:
    """Conditions with the number of rows that a request gives, its values, and the sides of the grid that they are."""
    from latentc_support.chunks import MOST_ROWS, with_rows

    chunk = chunk_of(program)
    if chunk is None:
        return conditions, values, None
    conditions, values, _, sides = with_rows(chunk, conditions, values, MOST_ROWS)
    return conditions, values, sides


# endregion
def usual_given(count: int, labels: Sequence[int] | None = None, **indexes: Any) -> Given:
    """Inputs for samples in training, by default of all classes in turn."""
    return default_given(count, 0, *declared(program_of()), labels, **indexes)


def preview_given(usual: Callable[..., Given], columns: int = 8) -> Given:
    """Inputs of training previews: a row for each of up to ten classes."""
    counts = [c.classes for c in declared(program_of())[0] if c.form == "label"]
    rows = min([10, *counts])
    return usual(rows * columns, np.repeat(np.arange(rows), columns))


def titles_of(given: Given, conditions: Sequence[Condition]) -> list[str]:
    """The display name of each sample's class; empty if samples have none."""
    columns = []
    for condition in (c for c in conditions if c.form == "label"):
        labels = given.conditions[condition.name]
        # region conditions
        labels = labels if condition.encoding == "index" else labels.argmax(-1)
        # endregion
        columns.append(titles(condition.names, labels.tolist()))
    return [", ".join(row) for row in zip(*columns, strict=True)]


def field_of(config: dict[str, Any]) -> dict[str, Any]:
    """The field of the data that samples are of."""
    # region staged
    return config["data"]["first_stage"]["field"]
    # endregion
    # region direct
    fields = config["data"]["fields"]
    return fields.get("x") or fields["tokens"]
    # endregion


def save(samples: Tensor, config: dict[str, Any], path: Path, columns: int, labels: Sequence[str] = ()) -> None:
    """Writes samples in the format of the path's suffix; without a suffix, a folder of files.

    `labels`: one text per sample, shown next to the images of a .png if Pillow is installed.
    """
    field = field_of(config)
    try:
        if labels and path.suffix == ".png" and importlib.util.find_spec("PIL"):
            contents = {path: labelled(samples.numpy(), field, columns, labels)}
        else:
            contents = encoded(samples.numpy(), field, path, columns, FORMATS)
    except ValueError as error:
        raise SystemExit(f"{path}: {error}") from None
    for file, content in contents.items():
        write_whole(file, partial(Path.write_bytes, data=content))


def labelled(samples: np.ndarray, field: dict[str, Any], columns: int, labels: Sequence[str]) -> bytes:
    """A .png of labelled images."""
    from latentc_support.labels import labelled_grid
    from latentc_support.media import pictures
    from latentc_support.pixels import png

    return png(labelled_grid(pictures(samples, field), columns, labels))


def load_networks(file: Path, device: torch.device, config: dict[str, Any]) -> dict[str, nn.Module]:
    """The networks needed for sampling, from .safetensors or a checkpoint (its averages, if any)."""
    if not file.exists():
        raise SystemExit(f"--weights: there is no file {file}")
    try:
        tensors = read_weights(file) if file.is_dir() else load_tensors(file)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"--weights: {error}") from None
    networks = {name: NETWORKS[name](**config["model"][name]) for name in SAMPLED}
    for name, network in networks.items():
        state = with_counts(of_network(tensors, name), network)
        if why := misfit(state, network):
            raise SystemExit(f"{file} belongs to another model: {why}")
        network.load_state_dict(state)
        network.to(device).eval()
    # region staged
    return with_first_stage(networks, config, device)
    # endregion
    # region direct
    return networks
    # endregion


# region staged
def with_first_stage(
    networks: dict[str, nn.Module], config: dict[str, Any], device: torch.device
) -> dict[str, nn.Module]:
    """Adds the first stage if programs call it. SystemExit if its weights are missing."""
    from latentc_support.first_stage import load

    try:
        return {**networks, "first_stage": load(config["data"]["first_stage"], device)}
    except ValueError as error:
        raise SystemExit(str(error)) from None


# endregion
# Settings that are flags of their own, and what these mean.
SHORT = {"guidance": "scale of classifier-free guidance", "truncation": "bound on the noise; inf: none"}


def natural(text: str, least: int = 0) -> int:
    """An integer of at least `least`. ValueError otherwise."""
    if int(text) < least:
        raise ValueError(f"{text} is less than {least}")
    return int(text)


def positive(text: str) -> int:
    """An integer of at least 1. ValueError otherwise."""
    return natural(text, 1)


def pair(text: str) -> tuple[str, str]:
    """Parses `NAME=VALUE`. ValueError if malformed."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text} is not NAME=VALUE")
    return name, value


def setting(text: str, name: str = "") -> tuple[str, float]:
    """Parses `NAME=NUMBER`, or the number of the setting `name`. ValueError if malformed."""
    name, number = (name, text) if name else pair(text)
    return name, float(number)


# region conditions
def condition_of(name: str, file: str) -> Any:
    """A condition: an .npy, an .npz (`value`, `mask` or one array), lines of a .txt, or a text as it is."""
    if not os.path.isfile(file):
        if file.endswith((".npy", ".npz", ".txt")):
            raise SystemExit(f"--given {name}: no such file: {file}")
        return file
    if file.endswith(".txt"):
        try:
            return Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise SystemExit(f"--given {name}: {file} cannot be read: {error}") from None
    try:
        content = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--given {name}: {file} is not a .npy or .npz file of arrays: {error}") from None
    if isinstance(content, np.ndarray):
        return content
    if "value" in content:
        return {part: content[part] for part in ("value", "mask") if part in content}
    if content.files in (["query"], ["class"]):  # of neighbours
        return dict(content)
    if name not in content and len(content.files) != 1:
        raise SystemExit(f"--given {name}: {file} has no array {name}; it holds {', '.join(content.files)}")
    return content[name if name in content else content.files[0]]


def indexes_for(conditions: Sequence[Condition], values: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Indexes for the neighbours that `values` lack. SystemExit if the data cannot be read."""
    searched = [c for c in conditions if c.retrieved and np.shape(values.get(c.name))[-2:] != c.shape]
    if not searched:
        return {}
    from latentc_support.data import open_data

    held = open_data(config).source.indexes
    return {c.name: held[c.name] for c in searched}


# endregion
# region classes
def request_of(flags: argparse.Namespace, program: Any) -> Given:
    """The request that the flags describe. SystemExit if it is invalid."""
    conditions, settings = declared(program, names_for(flags.weights))
    count, given = flags.count, {}
    if len(dict(flags.setting)) < len(flags.setting):
        raise SystemExit("a setting is given twice")
    if flags.classes is not None and not conditions:
        raise SystemExit("--class: samples of this program have no class")
    for label in conditions:
        chosen = list(range(min(10, label.classes)))
        if flags.classes is not None:
            try:
                chosen = classes_from_text(flags.classes, label.classes, label.names)
            except RequestError as error:
                raise SystemExit(f"--class: {error.message}; {error.help}") from None
        rows = np.repeat(chosen, flags.per_class) if count is None else np.resize(chosen, count)
        given[label.name], count = rows, len(rows)
    count, known = 1 if count is None else count, {one.name: one for one in settings}
    values = {one.name: one.value for one in settings}
    for name, value in flags.setting:
        if name not in known:
            raise SystemExit(f"no setting `{name}`; the program takes {', '.join(known) or 'none'}")
        if not known[name].allows(value):
            raise SystemExit(f"`{name}` {value:g} is out of range: {known[name].range}")
        values[name] = value
    try:
        seeds = seed_words(range(flags.seed, flags.seed + count))
    except ValueError as error:
        raise SystemExit(f"--seed: {error}") from None
    return Given(seeds, given, {}, {name: np.full(count, value) for name, value in values.items()})


# endregion
# region conditions
def given_of(flags: argparse.Namespace, program: Any, config: dict[str, Any]) -> Given:
    """The request that the flags describe. SystemExit if it is invalid."""
    conditions, settings = declared(program, names_for(flags.weights))
    values = {name: condition_of(name, file) for name, file in flags.given}
    indexes = indexes_for(conditions, values, config)
    labels = [c for c in conditions if c.form == "label" and c.name not in values]
    classes: Sequence[int] | None = None
    if flags.classes is not None:
        queries = [index.queries for index in indexes.values() if index.queries is not None]
        known, names = (len(queries[0]) if queries else 1, ())
        if labels:
            known, names = labels[0].classes, labels[0].names
        try:
            classes = classes_from_text(flags.classes, known, names)
        except RequestError as error:
            raise SystemExit(f"--class: {error.message}; {error.help}") from None
    elif len(labels) == 1 and labels[0].required:
        classes = range(min(10, labels[0].classes))
    if classes is not None and flags.count is not None:
        classes = [classes[i % len(classes)] for i in range(flags.count)]
    elif classes is not None:
        classes = np.repeat(classes, flags.per_class).tolist()
    asked: dict[str, float] = {}
    for name, value in flags.setting:
        if name in asked:
            raise SystemExit(f"the setting `{name}` is given twice")
        asked[name] = value
    try:
        # region rows
        conditions, values, flags.sides = rows_of(program, conditions, values)
        # endregion
        return checked_given(
            conditions,
            settings,
            classes=classes,
            given=values,
            asked=asked,
            seeds=flags.seed,
            count=flags.count,
            indexes=indexes,
        )
    except RequestError as error:
        raise SystemExit(f"{error.message}; {error.help}") from None


# endregion
def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--weights", type=Path, required=True, help=".safetensors file, or a checkpoint")
    text = "such as 0-9 or 3,tabby; default: the first ten"
    parser.add_argument("--class", dest="classes", metavar="CLASSES", help=text)
    parser.add_argument("--per-class", type=positive, default=10, metavar="N", help="samples per class")
    parser.add_argument("--count", type=natural, metavar="N", help="number of samples")
    # region conditions
    text = "a condition as .npy, .npz, .txt with one text per line, or a number or text itself"
    parser.add_argument("--given", type=pair, action="append", default=[], metavar="NAME=VALUE", help=text)
    # endregion
    parser.add_argument("--seed", type=natural, default=0)
    text = f"one of {', '.join(one.name for one in SETTINGS) or 'none'}"
    parser.add_argument("--setting", type=setting, action="append", default=[], metavar="NAME=VALUE", help=text)
    for one in SETTINGS:
        if one.name in SHORT:
            number, text = partial(setting, name=one.name), f"{SHORT[one.name]}; {one.value:g} by default"
            parser.add_argument(f"--{one.name}", type=number, action="append", dest="setting", help=text)
    parser.add_argument("--program", metavar="NAME", help="one of the programs in sampler.py")
    parser.add_argument("--steps", type=positive, help="number of steps")
    # region schedule
    every = [program for held in PROGRAMS.values() for program in held.values()]
    settings = {name: value for program in every[::-1] for name, value in arguments_of(program).items()}
    for name, value in settings.items():
        if name != "steps":
            text = f"of the schedule in schedule.py; {value} by default"
            parser.add_argument(f"--{name}", type=type(value), dest=f"schedule.{name}", metavar="X", help=text)
    # endregion
    parser.add_argument("--labels", action="store_true", help="label the images of a .png with their classes")
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--raw", type=Path, help="write outputs, conditions and seeds to this .npz")
    parser.add_argument("-o", "--output", type=Path, help=f"{', '.join(FORMATS)}; or a folder")
    flags = parser.parse_args()
    # region schedule
    asked = {name: getattr(flags, f"schedule.{name}", None) for name in settings}
    asked = {name: value for name, value in asked.items() if value is not None}
    program = program_of(flags.program, flags.steps, asked)
    # endregion
    # region tables
    program = program_of(flags.program, flags.steps)
    # endregion
    config = load_config([])
    # region classes
    given = request_of(flags, program)
    # endregion
    # region conditions
    given = given_of(flags, program, config)
    # endregion
    networks = load_networks(flags.weights, torch.device(flags.device), config)
    outputs = draw(networks, given, program, flags.batch)
    # region rows
    outputs = whole(outputs, given, program, flags.sides)
    # endregion
    if flags.raw:
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        arrays = {**given.conditions, "seeds": given.seeds, **arrays}
        raw = flags.raw if flags.raw.suffix == ".npz" else flags.raw.with_name(f"{flags.raw.name}.npz")
        write_whole(raw, lambda file: np.savez(file, **arrays))
    if flags.output:
        conditions, _ = declared(program, names_for(flags.weights))
        labels = titles_of(given, conditions) if flags.labels else []
        save(next(iter(outputs.values())), config, flags.output, flags.per_class, labels)
        print(flags.output)


if __name__ == "__main__":
    main()
