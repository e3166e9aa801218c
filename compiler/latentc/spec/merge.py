"""How what a file, a variant or `--set` says changes what it inherits.

Mappings merge key by key, anything else replaces. A mapping with another `kind` replaces the old one, because the keys
of one kind mean nothing to another; so does one tagged `!replace`. A null removes what is inherited: an entry of a
mapping whose keys are the user's own names (a condition, a network, a data field, a name map, ...), together with what
belongs to it, or an option, which then has its default, unless null is one of its values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from latentc.diagnostics import Diagnostic, DiagnosticError, Label, did_you_mean
from latentc.spec.yaml import REPLACE, Node

Path = tuple[str, ...]

# Mappings whose keys are the user's own names; `weights` maps names to networks.
_NAMED: dict[Path, str] = {
    ("data", "fields"): "data field",
    ("conditioning",): "condition",
    ("networks",): "network",
    ("weights",): "name map",
    ("checkpoints",): "checkpoint",
    ("train", "optimizers"): "optimiser",
}


@dataclass
class Merging:
    """The specs being merged; `own` is the file whose author reads the errors and the `notes` on surprises.

    `gone`: what was removed so far, which may be removed again. `same_kinds`: mappings of different kinds are merged,
    too.
    """

    own: str | None = None
    notes: list[str] = field(default_factory=list)
    gone: set[Path] = field(default_factory=set)
    same_kinds: bool = False


def merge(base: Node, over: Node, merging: Merging, path: Path = ()) -> Node:
    """`base`, at this path, changed by `over`. DiagnosticError E0216: nothing to remove."""
    if path:
        return _merged(base, over, merging, path)
    if faults := list(_faults(base, over, merging)):
        raise DiagnosticError(*faults)
    return _merged(_without_removed(base, over, merging.gone), over, merging, path)


def _merged(base: Node, over: Node, merging: Merging, path: Path) -> Node:
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)) or over.replaces:
        return over
    if _of_other_kind(base, over) and not merging.same_kinds:
        return over
    fields = dict(base.fields)
    if path == ("variants",):  # sizes belong to one system
        fields = {name: fields[name] for name in over.fields if name in fields}
    for outdated in _outdated(base, over, path, merging):
        fields = dict(without(replace(base, value=fields), outdated).fields)
    for key, node in over.fields.items():
        inherited = fields.get(key)
        if node.value is None and path[:1] == ("weights",):
            fields[key] = replace(node, removes=True)  # also maps that a network's own base would bring
        elif node.value is None and _named(path) is not None:
            fields.pop(key, None)
        elif node.value is None:
            fields[key] = replace(node, removes=inherited is not None)
        else:
            fields[key] = _merged(inherited or Node({}, node.span), node, merging, (*path, key))
    return replace(over, value=fields, replaces=base.replaces or over.replaces)


def _of_other_kind(base: Node, over: Node) -> bool:
    kinds = [node.fields["kind"].value for node in (base, over) if "kind" in node.fields]
    return len(kinds) == 2 and kinds[0] != kinds[1]


def _named(path: Path) -> str | None:
    """The word for an entry of the mapping at this path, if its keys are the user's own names."""
    return "name map" if len(path) == 2 and path[0] == "weights" else _NAMED.get(path)


def _removed(over: Node) -> Iterator[tuple[Path, Node]]:
    """The entries that `over` removes from the base of a whole spec, and their nulls."""
    maps = [("weights", name) for name in _at(over, ("weights",)).fields]
    for path in (*_NAMED, *maps):
        yield from (((*path, key), node) for key, node in _at(over, path).fields.items() if node.value is None)


def _faults(base: Node, over: Node, merging: Merging) -> Iterator[Diagnostic]:
    """Nulls in the own file with nothing to remove; those that remove entries of a base's variant have done so."""
    extended = any("extends" in network.fields for network in _at(base, ("networks",)).fields.values())
    for (*path, key), node in _removed(over):
        section = _at(base, tuple(path))
        if path[0] == "weights" and extended:  # may come with a network's own base
            continue
        gone = node.removes or (*path, key) in merging.gone
        if key not in section.fields and node.span.file == merging.own and not gone:
            known = ", ".join(section.fields) or "none"
            label = Label(node.span, did_you_mean(key, section.fields, "null removes an entry"))
            message = f"no {_named(tuple(path))} `{key}` is inherited"
            yield Diagnostic("E0216", message, node.span, (label,), help=f"leave it out; inherited here: {known}")


# ---- what goes with something else


def _without_removed(base: Node, over: Node, gone: set[Path]) -> Node:
    """The base of a whole spec without what belongs to entries that `over` removes; its variants without these, too.

    All of it is added to `gone`.
    """
    networks = _at(over, ("networks",))
    lost = [name for name in _at(base, ("networks",)).fields if networks.replaces and name not in networks.fields]
    for path in (*(path for path, _ in _removed(over)), *(("networks", name) for name in lost)):
        belonging = list(_belonging(base, path))
        gone.update((path, *belonging))
        for one in belonging:
            base = without(base, one)
        for name, variant in base.fields.get("variants", Node({}, base.span)).fields.items():
            for one in (path, *_belonging(variant, path)):
                base = without(base, ("variants", name, *one))
    return base


def _belonging(node: Node, path: Path) -> Iterator[Path]:
    """The entries of a spec or variant that have no meaning without the entry at `path`."""
    if path[:1] == ("networks",):
        yield from ((*section, path[1]) for section in (("checkpoints",), ("train", "optimizers")))
        for name, maps in _at(node, ("weights",)).fields.items():
            if path[1] in maps.fields:
                yield ("weights", name, path[1]) if len(maps.fields) > 1 else ("weights", name)
        if _at(node, ("optimize", "stitch", "network")).value == path[1]:
            yield ("optimize", "stitch")
    elif path[:2] == ("data", "fields"):
        yield (*path[:2], f"{path[2]}_mask")


def _outdated(base: Node, over: Node, path: Path, merging: Merging) -> Iterator[Path]:
    """Paths below `path` of what the base says about something that `over` replaces."""
    given = {key: node for key, node in over.fields.items() if node.value is not None}
    spacing = given.get("spacing", Node(None, over.span))
    determined = "respacing" in given or "timesteps" in given or "values" in spacing.fields
    if determined and "steps" in base.fields and "steps" not in over.fields:
        yield ("steps",)
    if path[:1] != ("data",):
        return
    named: list[Path] = []
    changed: str | None = None
    if path == ("data",) and ("path" in given or "classes" in given):
        changed, named = "path" if "path" in given else "classes", [("class_names",), ("fields", "y", "class_names")]
    elif path[:2] == ("data", "fields") and "classes" in given and _differ(base, over, ("classes",)):
        changed, named = "classes", [("class_names",)]
    elif path == ("data",) and _differ(base, over, ("fields", "y", "classes")):
        changed, named = "fields.y.classes", [("class_names",)]
    own = ("class_names",), ("fields", "y", "class_names")
    for place in named:
        names = _at(base, place)
        if names.value is None or any(_at(over, one).value is not None for one in own) or _same_command(names, over):
            continue
        yield place
        if over.span.file == merging.own:
            cause = (changed or "").split(".")
            merging.notes.append(
                f"`{shown((*path, *place))}` of {_where(names)} is left out: `{shown((*path, *cause))}` of "
                f"{_where(_at(over, tuple(cause)))} may have other classes"
            )


def _differ(base: Node, over: Node, path: Path) -> bool:
    """True if `over` gives a value at `path` that is another than the base's, if that gives any."""
    old, new = _at(base, path).value, _at(over, path).value
    return new is not None and old is not None and old != new


def _same_command(one: Node, other: Node) -> bool:
    """True if both were given by options of one command."""
    command, number, _ = one.span.file.partition(" #")
    return bool(number) and command == other.span.file.partition(" #")[0]


def _at(node: Node, path: Path) -> Node:
    """The node at `path` below `node`, or a null node if there is none."""
    for key in path:
        node = node.fields.get(key, Node(None, node.span))
    return node


def without(node: Node, path: Path) -> Node:
    """`node` without the node at `path`, if there is one."""
    key, *rest = path
    if key not in node.fields:
        return node
    fields = dict(node.fields)
    if rest:
        fields[key] = without(fields[key], tuple(rest))
    else:
        del fields[key]
    return replace(node, value=fields)


# ---- what its author may not expect


def overridden(root: Node, changes: Node, own: str, variant: str, path: Path = ()) -> Iterator[str]:
    """A line for each value of the file `own` that an inherited variant changes."""
    for key, node in changes.fields.items():
        before = root.fields.get(key)
        if before is None or node.span.file == own:
            continue
        merges = isinstance(before.value, dict) and isinstance(node.value, dict) and not node.replaces
        if merges and not _of_other_kind(before, node):
            yield from overridden(before, node, own, variant, (*path, key))
        elif before.span.file == own and before.data() != node.data():
            place = f"`{shown((*path, key))}`"
            yield f"{place} of {_where(before)} does not apply: variant `{variant}` changes it in {_where(node)}"


def kept_guidance(root: Node, own: str, option: str, path: Path = ()) -> Iterator[str]:
    """A line for each guidance of which the file `own` or an `option` gives the scale, but not all other keys."""

    def rank(node: Node) -> int:
        return 2 if node.span.file.startswith(f"{option} #") else int(node.span.file == own)

    items = root.value if isinstance(root.value, list) else []
    scale = root.fields.get("scale")
    if "guidance" in path[-2:] and scale is not None:
        others = {key: node for key, node in root.fields.items() if key not in ("kind", "name", "scale")}
        if kept := [(key, node) for key, node in others.items() if rank(node) < rank(scale)]:
            words = ", ".join(f"`{key}: {n.data()}`" for key, n in kept)
            yield (
                f"`{shown(path)}` keeps {words} of {_where(kept[0][1])}; to set `scale` alone, write "
                f"`guidance: {REPLACE} {{scale: {scale.data()}}}` or --set '{shown(path)}={{scale: {scale.data()}}}'"
            )
    for key, node in (*root.fields.items(), *((str(index), item) for index, item in enumerate(items))):
        if isinstance(node.value, (dict, list)) and (path or key != "weights"):  # name maps have no guidance
            yield from kept_guidance(node, own, option, (*path, key))


def shown(path: Path) -> str:
    """A path as a spec's author writes it."""
    return ".".join(("backbone", *path[2:]) if path[:2] == ("networks", "main") else path)


def _where(node: Node) -> str:
    return f"{node.span.file}:{node.span.line}"
