"""Merges a spec with its base (`extends`), a variant and `--set`; every value keeps the place where it was written.

Mappings merge key by key (`merge.py`), anything else replaces. A spec with variants of its own has those alone; they
change further what the base's of the same name change. `--set` gives the value at its path anew: a mapping there is not
merged, and other keys beside it stay, whatever the kind.

A network may itself have a base, the network `main` of another spec: `{extends: t5, variant: v1.1-xl}`. Name maps of
that one come with it unless the spec has its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from latentc.components import packages
from latentc.diagnostics import DiagnosticError, Label, Span, add_source, did_you_mean, nearest
from latentc.files import shipped
from latentc.spec.merge import Merging, kept_guidance, merge, overridden, without
from latentc.spec.yaml import MAX_DEPTH, Document, Node, PathKey, load_yaml

FORMAT_VERSION = 1
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Resolved:
    """One spec with nothing left to look up: no `extends`, no `variants`, no `backbone`, no `official`.

    `variants` {name: what it changes}; `variant`, the one that was chosen. `notes`: what merging did that the
    author may not expect, a line each. `official`: the section of that name, which belongs to the file alone.
    """

    document: Document
    variants: Mapping[str, Node]
    variant: str | None
    notes: tuple[str, ...] = ()
    official: Node | None = None

    def giving(self, path: PathKey) -> dict[str, Set[str]]:
        """{variant that can still be chosen: the keys that it has at `path`}."""
        unchosen = self.variants if self.variant is None else {}
        return {name: _keys(node, path) for name, node in unchosen.items()}


def read_text(path: Path, file: str | None = None) -> str:
    """The text of a spec file; DiagnosticError if it is missing, unreadable, too large or not UTF-8."""
    file = file or str(path)
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "was not found" if not path.exists() else "is not a regular file"
            code = "E0402" if path.exists() else "E0401"
            mend = "give the path of a YAML file"
            if (path / "manifest.json").is_file():
                mend = f"it is a bundle: its spec is `{file.rstrip('/')}/spec.yaml`"
            raise DiagnosticError.of(code, f"`{file}` {what}", help=mend)
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DiagnosticError.of("E0402", f"`{file}` cannot be read: {reason}") from None
    return text_from_bytes(content, file)


def text_from_bytes(content: bytes, file: str) -> str:
    """The text of a spec read from `file`; DiagnosticError if it is too large or not UTF-8."""
    if len(content) > MAX_BYTES:
        message = f"`{file}` is larger than the {MAX_BYTES >> 10} KiB a spec may have"
        raise DiagnosticError.of("E0105", message, help="give the path of a spec")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        add_source(file, content.decode("utf-8", errors="replace"))
        span = Span(file, line, column, line, column + 1)
        message = f"byte 0x{content[error.start]:02x} is not valid UTF-8"
        raise DiagnosticError.of("E0101", message, span, help="save the file as UTF-8") from None


def find_spec(source: str, folder: Path = Path()) -> Path | None:
    """The file a source names: a path relative to `folder`, a shipped spec (`dit`, `diffusion/dit`), or a package's."""
    try:
        path = folder / source
        there = path.exists()
        if there and not path.is_dir():
            return path
    except (OSError, ValueError):  # too long for a path, or contains a null byte
        return None
    *family, name = source.removeprefix("specs/").removesuffix(".yaml").split("/")
    found = shipped.shipped_specs().get(name)
    if found is not None and family in ([], [found.parent.name]):
        return found  # even if there is a folder of this name, such as a trained project
    own = packages.specs() if "/" not in source else {}
    return path if there else own.get(name)


def named_spec(source: str, folder: Path, span: Span | None) -> Path:
    """The file of a spec that another spec in `folder` names at `span`. Raises DiagnosticError E0210."""
    path = find_spec(source, folder)
    if path is None or not path.is_file():
        mend = did_you_mean(source, shipped.shipped_specs(), "write a path relative to this file, or a shipped name")
        raise DiagnosticError.of("E0210", f"no spec `{source}` was found", span, help=mend)
    return path


def resolve_file(
    source: str, variant: str | None = None, overrides: Sequence[str] = (), option: str = "--set"
) -> Resolved:
    """Read and resolve the spec `source` names; DiagnosticError (E01xx, E02xx, E04xx).

    `option` is what diagnostics call the overrides.
    """
    path = find_spec(source)
    if path is None:
        otherwise = "give a path, or the name of a shipped spec: `latentc specs` lists them"
        mend = did_you_mean(source, [*shipped.shipped_specs(), *packages.specs()], otherwise)
        raise DiagnosticError.of("E0401", f"no spec `{source}` was found", help=mend)
    return resolve_text(read_text(path, _shown(path)), _shown(path), path, variant, overrides, option)


def resolve_text(
    text: str,
    file: str,
    path: Path | None,
    variant: str | None,
    overrides: Sequence[str],
    option: str = "--set",
    chain: tuple[str, ...] = (),
) -> Resolved:
    """Resolve the spec in `text`, called `file` in diagnostics; `path` is what `extends` is relative to.

    `chain`: the files that a network of each extends the next.
    """
    merging = Merging(file)
    root = _with_base(text, file, path or Path(file), (), merging)
    fields = dict(root.fields)
    variants = fields.pop("variants", None)
    if variants and variants.value is not None and not isinstance(variants.value, dict):
        raise _wrong_type("`variants` must map names to changes", variants)
    fields.pop("extends", None)
    root = replace(root, value=fields)
    if variant is not None:
        changes = _variant(variants, variant)
        merging.notes += overridden(root, changes, file, variant)
        root = merge(root, changes, merging)
    for number, text in enumerate(overrides, start=1):
        root = _set(root, text, replace(merging, own=f"{option} #{number}", same_kinds=True))
    root = _with_networks(root, (*chain, file))
    notes = dict.fromkeys((*merging.notes, *kept_guidance(root, file, option)))
    official = root.fields.get("official")
    root = without(root, ("official",))
    return Resolved(Document(root), variants.fields if variants else {}, variant, tuple(notes), official)


def _shown(path: Path) -> str:
    """The path as diagnostics show it: relative if it is inside the current folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") and path.is_absolute() else relative


def _with_base(text: str, file: str, path: Path, chain: tuple[Path, ...], merging: Merging) -> Node:
    root = load_yaml(text, file).root
    if not isinstance(root.value, dict):
        what = "is empty" if root.value is None else "is not a mapping of keys to values"
        help_text = f"begin with `latentc: {FORMAT_VERSION}`, then `name:`, `data:`, `backbone:` and so on"
        raise DiagnosticError.of("E0106", f"the spec {what}", root.span, help=help_text)
    _check_version(root)
    root = _without_backbone(root)
    extends = root.fields.get("extends")
    if extends is None:
        return root
    if not isinstance(extends.value, str):
        raise _wrong_type("`extends` must be the path or name of one spec", extends)
    base = named_spec(extends.value, path.parent, extends.span)
    here = (*chain, path.resolve())
    if base.resolve() in here:
        way = " → ".join(link.name for link in (*here[here.index(base.resolve()) :], base))
        message = f"circular `extends`: {way}"
        raise DiagnosticError.of("E0211", message, extends.span, help="remove one `extends`")
    if root.replaces:
        message = "a whole spec cannot replace its base"
        raise DiagnosticError.of("E0104", message, root.span, help="leave out the tag, or `extends`")
    # Notes on the merging of the base itself do not concern the author of this file. Its official checkpoints are of
    # its own sizes.
    inherited = _with_base(read_text(base, _shown(base)), _shown(base), base, here, Merging())
    return merge(without(inherited, ("official",)), root, merging)


def _with_networks(root: Node, chain: tuple[str, ...]) -> Node:
    """`root` with the bases of its networks in place of their `extends`, and the name maps of these bases."""
    networks = root.fields.get("networks", Node(None, root.span))
    for name, network in networks.fields.items():
        extends, variant = network.fields.get("extends"), network.fields.get("variant")
        if extends is None:
            continue
        if wrong := [key for key in (extends, variant) if key is not None and not isinstance(key.value, str)]:
            raise _wrong_type(
                "`extends` must be the name or path of a spec, and `variant` one of its variants", wrong[0]
            )
        base = named_spec(str(extends.value), Path(extends.span.file).parent, extends.span)
        if _shown(base) in chain:
            message = f"circular `extends`: {' → '.join((*chain, _shown(base)))}"
            raise DiagnosticError.of("E0211", message, extends.span, help="remove one `extends`")
        chosen = None if variant is None else str(variant.value)
        found = resolve_text(read_text(base, _shown(base)), _shown(base), base, chosen, (), chain=chain).document.root
        main = found.fields.get("networks", Node(None, extends.span)).fields.get("main")
        if main is None:
            message = f"`{extends.value}` has no network `main`"
            raise DiagnosticError.of("E0210", message, extends.span, help="name a spec with one network")
        own = {key: node for key, node in network.fields.items() if key not in ("extends", "variant")}
        changed = merge(main, replace(network, value=own, replaces=False), Merging(), ("networks", name))
        root = _put(root, [("networks", network.span), (name, network.span)], changed)
        for names, maps in found.fields.get("weights", Node(None, extends.span)).fields.items():
            there = root.fields.get("weights", Node(None, extends.span)).fields.get(names, Node(None, extends.span))
            if (rules := maps.fields.get("main")) is not None and name not in there.fields and not there.removes:
                root = _put(root, [(key, extends.span) for key in ("weights", names, name)], rules)
    for names, maps in root.fields.get("weights", Node(None, root.span)).fields.items():
        paths = [(name,) for name, rules in maps.fields.items() if rules.removes]
        for path in [()] if maps.removes else paths:
            root = without(root, ("weights", names, *path))
    return root


def _check_version(root: Node) -> None:
    node = root.fields.get("latentc")
    if node is not None and node.value == FORMAT_VERSION and type(node.value) is int:
        return
    if node is None:
        message, span = "the spec does not say which format it is in", Span(root.span.file, 1, 1, 1, 2)
        raise DiagnosticError.of("E0208", message, span, help=f"put `latentc: {FORMAT_VERSION}` first")
    message = "this format version is unknown"
    label = Label(node.span, f"this latentc reads version {FORMAT_VERSION}")
    help_text = f"write `latentc: {FORMAT_VERSION}`, or install the latentc this spec was written for"
    raise DiagnosticError.of("E0208", message, node.span, (label,), help=help_text)


def _without_backbone(root: Node) -> Node:
    """`backbone: x` → `networks: {main: x}`, in the spec and in each of its variants."""
    fields = dict(root.fields)
    variants = fields.get("variants")
    if variants is not None and isinstance(variants.value, dict):
        inner = {name: _without_backbone(node) for name, node in variants.value.items()}
        fields["variants"] = replace(variants, value=inner)
    backbone = fields.pop("backbone", None)
    if backbone is None:
        return replace(root, value=fields) if isinstance(root.value, dict) else root
    networks = fields.get("networks")
    main = networks.fields.get("main") if networks else None
    if main is not None:
        place, first = backbone.key or backbone.span, main.key or main.span
        labels = (Label(place, "is shorthand for `networks: {main: …}`"), Label(first, "also given here"))
        raise DiagnosticError.of("E0215", "the main network is given twice", place, labels, help="keep one")
    if networks is not None and isinstance(networks.value, dict):
        fields["networks"] = replace(networks, value={"main": backbone, **networks.value})
    elif networks is None:
        fields["networks"] = Node({"main": backbone}, backbone.span, backbone.key)
    return replace(root, value=fields)


def _keys(node: Node, path: PathKey) -> Set[str]:
    """The keys of the mapping at `path`; empty if there is none."""
    for key in path:
        node = node.fields.get(str(key), Node(None, node.span))
    return node.fields.keys()


def _variant(variants: Node | None, wanted: str) -> Node:
    names = variants.fields if variants else {}
    node = names.get(wanted)
    if node is None:
        known = f"variants of this spec: {', '.join(names)}" if names else "this spec has no variants"
        close = nearest(wanted, names)
        help_text = f"did you mean `{close}`?" if close else None
        span = variants.key if variants else None
        message = f"unknown variant `{wanted}`"
        raise DiagnosticError.of("E0212", message, span, notes=(known,), help=help_text)
    if node.value is None:
        return replace(node, value={})
    if not isinstance(node.value, dict):
        raise _wrong_type("a variant must be a mapping of changes", node)
    node = replace(node, replaces=False)  # it replaces the base's variant of that name, not the spec
    if forbidden := next((key for key in ("latentc", "extends", "official", "variants") if key in node.fields), None):
        span = node.fields[forbidden].key or node.span
        message = f"a variant cannot change `{forbidden}`"
        raise DiagnosticError.of("E0209", message, span, help="remove this key from the variant")
    return node


def _wrong_type(message: str, node: Node) -> DiagnosticError:
    return DiagnosticError.of("E0203", message, node.key or node.span)


# ---- --set a.b=c


def _set(root: Node, text: str, merging: Merging) -> Node:
    file = merging.own or ""
    add_source(file, text)
    target, equals, value = text.partition("=")
    if not equals or not target.strip():
        help_text = "write for example `--set train.steps=1000`; quote it if the shell would split it"
        span = Span(file, 1, 1, 1, max(2, len(text) + 1))
        message = "`--set` takes a path, `=` and a YAML value"
        raise DiagnosticError.of("E0214", message, span, help=help_text)
    steps: list[tuple[str, Span]] = []
    column = 1
    for part in target.split("."):
        steps.append((part.strip(), Span(file, 1, column, 1, column + max(1, len(part)))))
        column += len(part) + 1
    if empty := next((span for part, span in steps if not part), None):
        message = "an empty name in the path of `--set`"
        raise DiagnosticError.of("E0214", message, empty, help="write `a.b.c=value`")
    if len(steps) > MAX_DEPTH:
        raise DiagnosticError.of("E0214", "the path of `--set` is too long", steps[MAX_DEPTH][1])
    if steps[0][0] in ("latentc", "extends", "variants"):
        message = f"`{steps[0][0]}` cannot be changed by `--set`; edit the file"
        raise DiagnosticError.of("E0213", message, steps[0][1])
    # Blanks in place of the path keep the columns of the value right.
    try:
        leaf = load_yaml(" " * (len(target) + 1) + value, file).root
    finally:
        add_source(file, text)
    if leaf.value is None:
        leaf = replace(leaf, span=Span(file, 1, len(target) + 1, 1, len(target) + 2))
    if steps[0][0] == "backbone":
        steps[:1] = [("networks", steps[0][1]), ("main", steps[0][1])]
    changes = _changes(root, steps, replace(leaf, replaces=isinstance(leaf.value, dict)))
    return merge(root, changes, merging)


def _changes(node: Node, steps: list[tuple[str, Span]], leaf: Node) -> Node:
    """The change that sets `leaf` at path `steps` of `node`: nested mappings of one key, down to the leaf or a list."""
    if not steps:
        return leaf
    (name, span), rest = steps[0], steps[1:]
    if not isinstance(node.value, dict | None):
        return _put(node, steps, leaf)
    inner = node.fields.get(name)
    if inner is None and rest and rest[0][0].isdecimal():
        message = f"`{name}` is not written in the spec, so it has no items to change"
        help_text = f"set it as a whole: `{name}=[…]`"
        raise DiagnosticError.of("E0213", message, span, help=help_text)
    changed = _changes(inner or Node(None, span), rest, leaf)
    return Node({name: replace(changed, key=span)}, span)


def _put(node: Node, steps: list[tuple[str, Span]], leaf: Node) -> Node:
    """`node` with `leaf` at `steps`; missing mappings are created, list items must exist."""
    if not steps:
        return replace(leaf, key=node.key)
    (name, span), rest = steps[0], steps[1:]
    if isinstance(node.value, list):
        if not (name.isascii() and name.isdigit() and len(name) < 9 and int(name) < len(node.value)):
            label = Label(span, f"the list has {len(node.value)} items, counted from 0")
            raise DiagnosticError.of("E0213", f"this list has no item `{name}`", span, (label,))
        items = list(node.value)
        items[int(name)] = _put(items[int(name)], rest, leaf)
        return replace(node, value=items)
    if node.value is not None and not isinstance(node.value, dict):
        message = f"a plain value has no `{name}`"
        label = Label(node.span, "this is a single value")
        raise DiagnosticError.of("E0213", message, span, (label,))
    child = node.fields.get(name, Node(None, span))
    return replace(node, value={**node.fields, name: _put(replace(child, key=span), rest, leaf)})
