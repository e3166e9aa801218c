"""Draws a function as SVG: boxes in layers from top to bottom, with a run of equal blocks as one box.

Layers are networkx's topological generations. The order within a layer follows the mean positions of the neighbours
(the barycentre method of Sugiyama et al. 1981). An arrow over several layers reserves a slot in each of them, so that
it crosses no box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import networkx as nx

from latentc.files.templates import rendered
from latentc.ir.core import Function, Module, Node, Value, callees
from latentc.ir.groups import Group, groups_of
from latentc.ir.ops import CONTROL
from latentc.ir.ops.attention import OPS as ATTENTION
from latentc.ir.ops.elementwise import OPS as ELEMENTWISE
from latentc.ir.ops.linear import OPS as LINEAR
from latentc.ir.ops.norm import OPS as NORM
from latentc.ir.ops.reduce import OPS as REDUCE
from latentc.ir.types import TensorType

# kind -> (fill, border, text of the legend)
COLOURS: dict[str, tuple[str, str, str]] = {
    "end": ("#f1f3f5", "#868e96", "input or output"),
    "call": ("#dbeafe", "#3b82f6", "another function"),
    "loop": ("#ede9fe", "#8b5cf6", "loop"),
    "product": ("#ffedd5", "#f97316", "matmul"),
    "attention": ("#fee2e2", "#ef4444", "attention and positions"),
    "norm": ("#dcfce7", "#22c55e", "normalisation"),
    "element": ("#fef9c3", "#ca8a04", "elementwise"),
    "reduce": ("#cffafe", "#06b6d4", "reduction"),
    "layout": ("#ffffff", "#adb5bd", "layout"),
}
_KINDS: list[tuple[str, Mapping[str, object]]] = [
    ("product", LINEAR),
    ("attention", ATTENTION),
    ("norm", NORM),
    ("element", ELEMENTWISE),
    ("reduce", REDUCE),
]
# Ops that are not drawn: arrows pass through them.
_HIDDEN = frozenset(
    {"constant", "reshape", "broadcast_to", "cast", "stop_gradient", "dropout", "drop_path", "training_noise"}
)
_LINE, _PAD, _GAP_X, _GAP_Y, _MARGIN = 15, 10, 26, 38, 28
_MOST_ARROWS = 8  # from one box
_SLOT = 14  # width of an arrow in a layer that it passes
_PULL = (1.0, 2.0, 16.0)  # weight of a straight arrow between two boxes, a box and a slot, two slots


@dataclass
class _Box:
    kind: str
    lines: list[str]
    width: float = 0
    height: float = 0
    x: float = 0  # centre
    y: float = 0  # top
    stack: bool = False

    def __post_init__(self) -> None:
        self.width = max(_width(line, bold=i == 0) for i, line in enumerate(self.lines)) + 2 * _PAD
        self.height = len(self.lines) * _LINE + 12

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def radius(self) -> float:
        return self.height / 2 if self.kind == "end" else 6


@dataclass
class _Drawing:
    boxes: dict[str, _Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], None] = field(default_factory=dict)
    routes: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def graph_svg(module: Module, function: str) -> str:
    """A function or entry, by name, as one SVG document without external references."""
    fn = module.functions[module.entries.get(function, function)]
    drawing = _boxes(module, fn)
    layers = _layers(drawing)
    width, height = _place(drawing, layers)
    return _svg(fn, drawing, width, height)


# ---- boxes and arrows


def _boxes(module: Module, fn: Function) -> _Drawing:
    drawing = _Drawing()
    source: dict[Value, set[str]] = {p.value: set() for p in fn.params}
    read = {v for n in fn.nodes for v in n.inputs} | set(fn.outputs)
    for value in fn.inputs:
        if value in read:
            drawing.boxes[f"in {value.name}"] = _Box("end", [value.name, str(value.type)])
            source[value] = {f"in {value.name}"}
    hidden = _HIDDEN if any(n.op not in _HIDDEN for n in fn.nodes) else frozenset({"constant"})
    through = {o: n for n in fn.nodes if n.op in hidden for o in n.outputs}

    def boxes_of(value: Value) -> set[str]:
        """The box that a value comes from, through ops that are not drawn; at most one."""
        while value not in source and value in through:
            node = through[value]
            if not node.inputs:
                return set()
            value = node.inputs[0]
        return source.get(value, set())

    for index, group in enumerate(groups_of(module, fn, hidden)):
        key = f"{index} {group.name}"
        drawing.boxes[key] = _box(module, fn, group)
        source.update((o, {key}) for n in group.nodes for o in n.outputs)
        for origin in dict.fromkeys(o for n in group.nodes for v in n.inputs for o in sorted(boxes_of(v))):
            if origin != key:
                drawing.edges[origin, key] = None
    for i, value in enumerate(fn.outputs):
        key = f"out {i}"
        drawing.boxes[key] = _Box("end", [value.name, str(value.type)])
        drawing.edges.update(((origin, key), None) for origin in sorted(boxes_of(value)))
    _join_ends(drawing)
    _name_common_sources(drawing)
    return drawing


def _name_common_sources(drawing: _Drawing) -> None:
    """Names a box that many others read in these, instead of drawing an arrow to each: the embedding in a U-Net."""
    readers: dict[str, list[str]] = {}
    for origin, key in drawing.edges:
        readers.setdefault(origin, []).append(key)
    for origin, keys in readers.items():
        if len(keys) <= _MOST_ARROWS:
            continue
        box = drawing.boxes[origin]
        title = box.lines[0]
        drawing.boxes[origin] = replace(box, lines=[*box.lines, f"read by {len(keys)} boxes"])
        for key in keys:
            del drawing.edges[origin, key]
            drawing.boxes[key] = replace(drawing.boxes[key], lines=[*drawing.boxes[key].lines, f"reads {title}"])


def _join_ends(drawing: _Drawing) -> None:
    """Joins four or more inputs of one type with the same readers into one box, and outputs of one source likewise."""
    equal: dict[object, list[str]] = {}
    for key, box in drawing.boxes.items():
        if box.kind == "end":
            ends = frozenset(a if b == key else b for a, b in drawing.edges if key in (a, b))
            equal.setdefault((key.partition(" ")[0], box.lines[1], ends), []).append(key)
    for row in equal.values():
        if len(row) < 4:
            continue
        first, last = drawing.boxes[row[0]], drawing.boxes[row[-1]]
        title = f"{first.lines[0]} … {last.lines[0]} ×{len(row)}"
        drawing.boxes[row[0]] = _Box("end", [title, first.lines[1]], stack=True)
        for key in row[1:]:
            del drawing.boxes[key]
            for edge in [e for e in drawing.edges if key in e]:
                del drawing.edges[edge]


def _box(module: Module, fn: Function, group: Group) -> _Box:
    node = group.nodes[0]
    if group.times > 1:
        calls = [n for n in group.nodes[: group.unit] if callees(n)]
        what = ", ".join(dict.fromkeys(_class(module, n) for n in calls))
        extra = [f"+ {n.op}" for n in group.nodes[: group.unit] if n.op not in CONTROL and group.unit <= 3]
        lines = [f"{group.name} ×{group.times}", " ".join([what, *extra]), _types(group.nodes[-1].outputs)]
        return _Box("call", lines, stack=True)
    if node.op == "loop":
        body = module.functions[node.attrs["body"]]
        inside = dict.fromkeys(f"{n.attrs.get('name') or ''}: {_class(module, n)}" for n in body.nodes if callees(n))
        lines = [f"{body.name} ×{node.attrs['trip']}", *(text.removeprefix(": ") for text in list(inside)[:4])]
        return _Box("loop", [*lines, _types(node.outputs)])
    if node.op in CONTROL:
        how = "" if node.op == "call" else f" ({node.op})"
        return _Box("call", [f"{group.name}{how}", _class(module, node), _types(node.outputs)])
    kind = next((name for name, ops in _KINDS if node.op in ops), "layout")
    weights = [p.name for p in fn.params if p.value in node.inputs]
    title = node.op.replace("_", " ") + (f" · {weights[0].rpartition('.')[0] or weights[0]}" if weights else "")
    return _Box(kind, [title, _types(node.outputs)])


def _class(module: Module, node: Node) -> str:
    """The class of a called method with its static arguments, or the name of a free function."""
    fn = module.functions[callees(node)[0]]
    if fn.origin is None:
        return fn.name
    method = "" if fn.origin.method == "forward" else f".{fn.origin.method}"
    args = ", ".join(f"{k}={int(v) if isinstance(v, int) else v}" for k, v in fn.origin.args.items() if _plain(v))
    return f"{fn.origin.cls}{method}({args})" if len(args) < 48 else f"{fn.origin.cls}{method}"


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _types(values: Sequence[Value]) -> str:
    shown = [_type(v.type) for v in values[:3]]
    return ", ".join(dict.fromkeys(shown)) + (", …" if len(values) > 3 else "")


def _type(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(str(int(d)) if isinstance(d, int) else str(d) for d in type.shape)}]"


# ---- layout


def _layers(drawing: _Drawing) -> list[list[str]]:
    """Boxes by layer, with a slot in each layer that an edge passes through, ordered to have few crossings."""
    graph = nx.DiGraph()
    graph.add_nodes_from(drawing.boxes)
    graph.add_edges_from(drawing.edges)
    layers = [sorted(layer, key=list(drawing.boxes).index) for layer in nx.topological_generations(graph)]
    depth = {key: i for i, layer in enumerate(layers) for key in layer}
    for key in list(depth):  # moves inputs from the top to the layer above their first reader
        readers = [depth[k] for k in graph.successors(key)]
        if not graph.in_degree(key) and readers and min(readers) - 1 > depth[key]:
            layers[depth[key]].remove(key)
            depth[key] = min(readers) - 1
            layers[depth[key]].append(key)
    for edge in drawing.edges:
        route = [edge[0]]
        for level in range(depth[edge[0]] + 1, depth[edge[1]]):
            slot = f"{edge[0]} → {edge[1]} @{level}"
            layers[level].append(slot)
            route.append(slot)
        drawing.routes[edge] = [*route, edge[1]]
    near = _neighbours(drawing)
    for sweep in range(8):
        order = list(range(1, len(layers))) if sweep % 2 == 0 else list(range(len(layers) - 2, -1, -1))
        step = -1 if sweep % 2 == 0 else 1
        for level in order:
            place = {key: i / max(1, len(layers[level + step]) - 1) for i, key in enumerate(layers[level + step])}
            here = {key: i / max(1, len(layers[level]) - 1) for i, key in enumerate(layers[level])}

            def mean(key: str, place: dict[str, float] = place, here: dict[str, float] = here) -> float:
                seen = [place[k] for k in near.get(key, ()) if k in place]
                return sum(seen) / len(seen) if seen else here[key]

            layers[level].sort(key=mean)
    return [layer for layer in layers if layer]


def _neighbours(drawing: _Drawing) -> dict[str, list[str]]:
    """The boxes and slots that each one is connected to."""
    near: dict[str, list[str]] = {}
    for route in drawing.routes.values():
        for a, b in pairwise(route):
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
    return near


def _place(drawing: _Drawing, layers: list[list[str]]) -> tuple[float, float]:
    """Sets the position of every box; returns (width, height) of the drawing."""
    for layer in layers:
        for key in layer:
            if key not in drawing.boxes:
                drawing.boxes[key] = slot = _Box("slot", [""])
                slot.width, slot.height = _SLOT, 0
    near = _neighbours(drawing)
    boxes, y = drawing.boxes, float(_MARGIN + 30)
    for layer in layers:
        x = 0.0
        for key in layer:
            boxes[key].x = x + boxes[key].width / 2
            x += boxes[key].width + _GAP_X
        for key in layer:
            boxes[key].x -= x / 2
        tallest = max(boxes[key].height for key in layer)
        for key in layer:
            if boxes[key].kind == "slot":
                boxes[key].height = tallest
            boxes[key].y = y + (tallest - boxes[key].height) / 2
        y += tallest + _GAP_Y
    for sweep in range(80):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            _settle(boxes, layer, near)
    left = min((b.x - b.width / 2 for b in boxes.values()), default=0.0)
    right = max((b.x + b.width / 2 for b in boxes.values()), default=0.0)
    for box in boxes.values():
        box.x += _MARGIN - left
    return right - left + 2 * _MARGIN, y - _GAP_Y + _MARGIN


def _settle(boxes: Mapping[str, _Box], layer: Sequence[str], near: Mapping[str, Sequence[str]]) -> None:
    """Moves a layer's boxes towards the mean of their neighbours, keeping order and distance: pooled least squares."""
    pools: list[tuple[float, float, list[str]]] = []  # (sum of desired offsets, weight, members)
    offset = 0.0
    offsets = {}
    for previous, key in zip([None, *layer], layer, strict=False):
        if previous is not None:
            offset += (boxes[previous].width + boxes[key].width) / 2 + _GAP_X
        offsets[key] = offset
        # Long arrows should be straight and bend only at their ends (weights of Gansner et al. 1993).
        pulls = [
            (_PULL[(boxes[key].kind == "slot") + (boxes[k].kind == "slot")], boxes[k].x) for k in near.get(key, ())
        ]
        weight = sum(pull for pull, _ in pulls) or 1.0
        wanted = sum(pull * x for pull, x in pulls) / weight if pulls else boxes[key].x
        pools.append((weight * (wanted - offset), weight, [key]))
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, heavy, members = pools.pop()
            before = pools.pop()
            pools.append((before[0] + total, before[1] + heavy, before[2] + members))
    for total, weight, members in pools:
        for key in members:
            boxes[key].x = total / weight + offsets[key]


def _width(text: str, bold: bool) -> float:
    """Width in pixels of a line of text, for a wide font."""
    narrow = sum(text.count(c) for c in "ilj.,:;|()[] ")
    return (len(text) - 0.45 * narrow) * (8.4 if bold else 6.9)


# ---- SVG


def _svg(fn: Function, drawing: _Drawing, width: float, height: float) -> str:
    used = [k for k in COLOURS if any(b.kind == k for b in drawing.boxes.values())]
    legend = _legend_rows(used, max(width, 480) - 2 * _MARGIN)
    width = max(width, 480)
    free = width - max((b.x + b.width / 2 for b in drawing.boxes.values()), default=0.0) - _MARGIN
    facts = {
        "title": fn.name,
        "width": f"{width:.0f}",
        "height": f"{height + 22 * len(legend) + 6:.0f}",
        "margin": _MARGIN,
        "shift": max(0.0, free / 2),
        "arrows": [_arrow([drawing.boxes[k] for k in route]) for route in drawing.routes.values()],
        "boxes": [box for box in drawing.boxes.values() if box.kind != "slot"],
        "colours": COLOURS,
        "legend": legend,
        "top": height,
    }
    return rendered("graph/function.svg", facts)


def _legend_rows(kinds: Sequence[str], width: float) -> list[list[tuple[float, str]]]:
    rows: list[list[tuple[float, str]]] = [[]]
    x = float(_MARGIN)
    for kind in kinds:
        size = 20 + _width(COLOURS[kind][2], bold=False) + 24
        if x + size > _MARGIN + width and rows[-1]:
            rows.append([])
            x = float(_MARGIN)
        rows[-1].append((x, kind))
        x += size
    return rows


def _arrow(route: Sequence[_Box]) -> str:
    """The path of a curve from the bottom of the first box to the top of the last, through the slots between them."""
    x, y = route[0].x, route[0].y + route[0].height + (6 if route[0].stack else 0)
    d = f"M{x:.1f} {y:.1f}"
    for box in route[1:]:
        half = (box.y - y) / 2
        d += f" C{x:.1f} {y + half:.1f} {box.x:.1f} {box.y - half:.1f} {box.x:.1f} {box.y:.1f}"
        x, y = box.x, box.y + box.height
        if box.kind == "slot":
            d += f" V{y:.1f}"
    return d
