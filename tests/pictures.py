"""The pictures of docs/architecture.md, drawn from the code: the folders, the capabilities, the way of a spec.

python tests/pictures.py   # draws docs/images/house.svg, capabilities.svg and way.svg anew
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import map as house

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"
INK, PALE, LINE = "#1f2933", "#5f6c7b", "#9aa5b1"
FILLS = {"core": "#e3eefa", "system": "#fdeeda", "aside": "#eef1f4"}

ROLES = {
    "cli": "one function per verb",
    "api": "the verbs, for Python",
    "interchange": "import, export",
    "league": "systems compared",
    "quantize": "int8, fp8",
    "runs": "compared",
    "scale": "many devices",
    "survey": "data inspected",
    "sweep": "many settings",
    "tune": "fewer steps",
    "verify": "backends agree",
    "evaluate": "FID and other metrics",
    "measure": "time, memory, errors",
    "pipeline": "every pass, in order",
    "checkpoint": "weights of a spec",
    "lower": "spec to IR",
    "emit": "IR to a PyTorch project",
    "export": "IR to ONNX and bundles",
    "passes": "module to module",
    "spec": "YAML to a checked spec",
    "systems": "what one paper needs",
    "components": "the vocabulary: one file per kind",
    "weights": "checkpoints, name maps",
    "ir": "types, ops, interpreter",
    "engines": "facts of each engine",
    "diagnostics": "errors with place and remedy",
}
"""What each layer is for, in the words of its box."""


class Picture:
    """An SVG picture that grows by rectangles, lines and texts; coordinates are pixels."""

    def __init__(self, width: int, title: str) -> None:
        self.width, self.height, self.title, self.parts = width, 0, title, list[str]()

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self.height = max(self.height, int(y + height))
        self.parts.append(
            f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' fill='{fill}' stroke='{LINE}'/>"
        )

    def line(self, x: float, y: float, to_x: float, to_y: float, arrow: bool = False) -> None:
        end = " marker-end='url(#head)'" if arrow else ""
        self.parts.append(
            f"<line x1='{x:g}' y1='{y:g}' x2='{to_x:g}' y2='{to_y:g}' stroke='{LINE}' stroke-width='1.5'{end}/>"
        )

    def text(self, x: float, y: float, text: str, size: int = 12, **how: str) -> None:
        self.height = max(self.height, int(y + size))
        given = {"fill": INK, **{key.replace("_", "-"): value for key, value in how.items()}}
        attributes = " ".join(f"{key}='{value}'" for key, value in given.items())
        self.parts.append(f"<text x='{x:g}' y='{y:g}' font-size='{size}' {attributes}>{escape(text)}</text>")

    def svg(self) -> str:
        """The picture as a file."""
        height = self.height + 14
        head = (
            "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' "
            f"orient='auto'><path d='M0,0 L8,4 L0,8 z' fill='{LINE}'/></marker></defs>"
        )
        size = f"width='{self.width}' height='{height}' viewBox='0 0 {self.width} {height}'"
        top = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT} role='img'><title>{escape(self.title)}</title>"
        back = f"<rect width='{self.width}' height='{height}' fill='white'/>"
        return "\n".join([top, head, back, *self.parts, "</svg>\n"])


# The folders


def layers() -> list[list[str]]:
    """The layers of the compiler from top to bottom, as import-linter keeps them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    given = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return [[name.strip().removeprefix("latentc.") for name in layer.split("|")] for layer in given]


def size_of(name: str) -> int:
    """The lines of a layer's folder or module."""
    folder = house.PACKAGE / name
    return house.lines(house.sources(name) if folder.is_dir() else [folder.with_suffix(".py")])


def _thousand(lines: int) -> str:
    return f"{lines / 1000:.1f}k lines" if lines >= 1000 else f"{lines} lines"


def picture_of_the_house() -> Picture:
    """The layers of the compiler, and what stands beside it."""
    picture = Picture(980, "The folders of latentc")
    picture.text(20, 26, "compiler/latentc: a layer imports only those below it", 14, font_weight="bold")
    y, row, left, width = 40, 54, 20, 700
    for layer in layers():
        each = (width - 8 * (len(layer) - 1)) / len(layer)
        for i, name in enumerate(layer):
            x, middle = left + i * (each + 8), left + i * (each + 8) + each / 2
            picture.box(x, y, each, row - 10, FILLS["system" if name == "systems" else "core"])
            count = size_of(name)
            if len(layer) > 3:
                picture.text(middle, y + 17, name, 12, text_anchor="middle", font_weight="bold")
                picture.text(middle, y + 29, ROLES[name], 9, text_anchor="middle", fill=PALE)
                picture.text(middle, y + 40, _thousand(count), 9, text_anchor="middle", fill=PALE)
            else:
                words = f"{ROLES[name]}, {_thousand(count)}"
                if name == "systems":
                    papers = sum((path / "__init__.py").is_file() for path in (house.PACKAGE / name).iterdir())
                    words = f"{ROLES[name]}, a folder each: {papers}, {_thousand(count)}"
                picture.text(middle, y + 19, name, 13, text_anchor="middle", font_weight="bold")
                picture.text(middle, y + 35, words, 10, text_anchor="middle", fill=PALE)
        y += row
    _beside(picture)
    return picture


def _beside(picture: Picture) -> None:
    x, y = 750, 40
    specs = len(list((ROOT / "specs").rglob("*.yaml")))
    kinds = {
        "specs/": f"{specs} published specs and examples",
        "templates/": "training project, pages, Triton",
        "datasets, samples": "training data read, samples written",
    }
    for name, words in kinds.items():
        picture.box(x, y, 210, 44, FILLS["aside"])
        picture.text(x + 105, y + 19, name, 12, text_anchor="middle", font_weight="bold")
        picture.text(x + 105, y + 35, words, 10, text_anchor="middle", fill=PALE)
        y += 54
    y += 30
    picture.text(x, y, "runtime/latentc_runtime", 14, font_weight="bold")
    picture.text(x, y + 16, "what is deployed: numpy and an engine;", 10, fill=PALE)
    picture.text(x, y + 29, "imports nothing of the compiler", 10, fill=PALE)
    y += 40
    folder = ROOT / "runtime" / "latentc_runtime"
    for path in sorted([*folder.glob("*/"), *folder.glob("*.py")]):
        if path.name.startswith("_"):
            continue
        picture.text(x + 8, y + 12, path.name + ("/" if path.is_dir() else ""), 10)
        count = house.lines(list(path.rglob("*.py")) if path.is_dir() else [path])
        picture.text(x + 205, y + 12, _thousand(count), 9, fill=PALE, text_anchor="end")
        y += 15


# The capabilities


def capabilities() -> tuple[Mapping[str, list[str]], Mapping[str, list[str]]]:
    """({capability: networks that provide it}, {capability: objectives and samplers that ask for it}), by kind.

    Networks by their classes and as the shipped specs use them, the others as the shipped specs use them.
    """
    from latentc import components
    from latentc.files.shipped import shipped_specs
    from latentc.spec import load_spec

    given: dict[str, set[str]] = defaultdict(set)
    asked: dict[str, set[str]] = defaultdict(set)
    for kind, network in components.load("networks").items():
        for capability in getattr(network, "PROVIDES", ()):
            given[capability].add(kind)
    for name in shipped_specs():
        spec: Any = load_spec(name)
        for network in spec.networks.values():
            for capability in network.provides(spec):
                given[capability].add(network.kind)
        for part in (spec.objective, spec.sampler):
            for need in part.needs(spec) if part is not None else ():
                asked[need.capability].add(part.kind)
    first, second = ({key: sorted(kinds) for key, kinds in found.items()} for found in (given, asked))
    return first, second


def picture_of_the_capabilities() -> Picture:
    """Networks, what they can do, and who asks for it."""
    picture, (given, asked) = Picture(1100, "The capabilities of networks"), capabilities()
    for x, title, anchor in (
        (430, "networks that provide it", "end"),
        (550, "capability", "middle"),
        (670, "objectives and samplers that ask for it", "start"),
    ):
        picture.text(x, 24, title, 13, text_anchor=anchor, font_weight="bold")
    known = [*house.core_capabilities(), *sorted(given.keys() - set(house.core_capabilities()))]
    for i, capability in enumerate(sorted(known, key=lambda c: (-len(given.get(c, ())), c))):
        y = 36 + 24 * i
        own = capability not in house.core_capabilities()
        picture.box(465, y, 170, 19, FILLS["system" if own else "core"])
        picture.text(550, y + 13, capability, 11, text_anchor="middle", font_weight="bold")
        for kinds, x, anchor, ends in (
            (given.get(capability, []), 440, "end", (445, 465)),
            (asked.get(capability, []), 660, "start", (635, 655)),
        ):
            if kinds:
                picture.line(ends[0], y + 9.5, ends[1], y + 9.5)
                picture.text(x, y + 13, _some(kinds), 10, text_anchor=anchor, fill=PALE)
    return picture


def _some(kinds: Iterable[str], most: int = 70) -> str:
    """As many names as have room, and how many more there are."""
    names = list(kinds)
    for count in range(len(names), 0, -1):
        text = ", ".join(names[:count]) + (f" and {len(names) - count} more" if count < len(names) else "")
        if len(text) <= most or count == 1:
            return text
    return ""


# The way of a spec


def way(name: str) -> dict[str, list[str]]:
    """{stage: files of the compiler of which a spec executes a function there and not before}."""
    house.component_modules()
    from latentc.emit.project import project_files
    from latentc.lower import lower
    from latentc.pipeline import optimised
    from latentc.spec import load_spec

    def stages() -> dict[str, list[str]]:
        kept: dict[str, Any] = {}

        def keep(key: str, value: Any) -> None:
            kept[key] = value

        works = {
            "load_spec": lambda: keep("spec", load_spec(name)),
            "lower": lambda: keep("lowered", lower(kept["spec"])),
            "optimised": lambda: optimised(kept["lowered"], kept["spec"]),
            "emit": lambda: project_files(kept["lowered"], kept["spec"]),
        }
        seen: set[str] = set()
        found = {}
        for stage, work in works.items():
            files = house.called(work)
            found[stage] = sorted(files - seen)
            seen |= files
        return found

    return house.apart(stages)  # type: ignore[no-any-return]


RESULTS = {
    "load_spec": "a checked Spec",
    "lower": "an IR Module: networks, loss, sampler",
    "optimised": "a Module for an engine, then ONNX",
    "emit": "a PyTorch project",
}


def picture_of_the_way(name: str) -> Picture:
    """The files that a spec executes, stage after stage."""
    stages, picture = way(name), Picture(1060, f"The way of {name} through the compiler")
    total = sum(len(stages[stage]) for stage in ("load_spec", "lower"))
    words = f"specs/…/{name}.yaml: {total} files of the compiler from YAML to IR; each file where it is called first"
    picture.text(20, 26, words, 14, font_weight="bold")
    for i, (stage, files) in enumerate(stages.items()):
        x, width = 20 + 260 * i, 236
        picture.box(x, 54, width, 48, FILLS["core"])
        picture.text(x + 10, 74, f"{stage}: {len(files)} files", 13, font_weight="bold")
        picture.text(x + 10, 91, f"gives {RESULTS[stage]}", 10, fill=PALE)
        if stage == "emit":  # of the lowered module, like the passes
            picture.line(x - 402, 44, x + 118, 44)
            picture.line(x - 402, 54, x - 402, 44)
            picture.line(x + 118, 44, x + 118, 53, arrow=True)
        elif i:
            picture.line(x - 24, 78, x - 2, 78, arrow=True)
        y = 124
        folders: dict[str, list[str]] = defaultdict(list)
        for file in files:
            folder, _, module = file.removesuffix(".py").rpartition("/")
            folders[folder or "latentc"].append(module)
        for folder, modules in folders.items():
            colour = "#b35c00" if folder.startswith("systems") else INK
            picture.text(x + 4, y, folder, 11, font_weight="bold", fill=colour)
            for line in _wrapped(modules, 42):
                y += 13
                picture.text(x + 14, y, line, 10, fill=PALE)
            y += 20
    return picture


def _wrapped(names: Iterable[str], most: int) -> list[str]:
    lines = [""]
    for name in names:
        if lines[-1] and len(lines[-1]) + len(name) + 2 > most:
            lines.append("")
        lines[-1] += f", {name}" if lines[-1] else name
    return lines


def draw() -> None:
    """Writes the three pictures."""
    pictures = {
        "house": picture_of_the_house(),
        "capabilities": picture_of_the_capabilities(),
        "way": picture_of_the_way("edm"),
    }
    for name, picture in pictures.items():
        (IMAGES / f"{name}.svg").write_text(picture.svg(), encoding="utf-8")


if __name__ == "__main__":
    draw()
