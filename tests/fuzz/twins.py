"""Emits a network beside a twin that differs in one number; each must be written as it is alone.

Networks in one project share the classes of equal modules. A difference anywhere below a network, in an attribute, a
constant or an initialiser, must therefore separate every class on the path to it, and no others.
"""

from __future__ import annotations

import ast
import random
import re
import textwrap
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from tiny_systems import SYSTEMS

from latentc.components.contract import Lowered
from latentc.emit.members import EmitError
from latentc.emit.model import ModelFile, networks_file
from latentc.ir.core import Function, Init, Module, callees
from latentc.lower import lower
from latentc.spec import load_spec

TWIN = "twin_"  # before the names of the twin's functions


@cache
def lowered(system: str) -> Lowered:
    tiny = SYSTEMS[system]
    return lower(load_spec(tiny.spec, tiny.variant, list(tiny.sizes)))


def reachable(module: Module, names: tuple[str, ...]) -> dict[str, Function]:
    """The functions of a network and those they call, in the module's order."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += [called for node in module.functions[name].nodes for called in callees(node)]
    return {name: fn for name, fn in module.functions.items() if name in found}


def places(functions: Mapping[str, Function]) -> Iterator[tuple[str, str, int, str]]:
    """(function, `nodes` or `params`, index, key) of each number that can change without changing a shape."""
    for name, fn in functions.items():
        for i, node in enumerate(fn.nodes):
            for key, value in node.attrs.items():
                numeric = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
                if isinstance(value, float) or numeric or (key == "causal" and isinstance(value, bool)):
                    yield name, "nodes", i, key
        for i, param in enumerate(fn.params):
            for key, value in param.init.args.items():
                if isinstance(value, float):
                    yield name, "params", i, key


def changed(value: Any) -> Any:
    return (not value) if isinstance(value, bool) else value * 1.5 + 0.25


def altered(fn: Function, part: str, index: int, key: str) -> Function:
    """The function with one of its numbers changed."""
    if part == "nodes":
        nodes = list(fn.nodes)
        node = nodes[index]
        nodes[index] = type(node)(
            node.op, node.inputs, node.outputs, {**node.attrs, key: changed(node.attrs[key])}, node.loc
        )
        return fn.with_(nodes=tuple(nodes))
    params = list(fn.params)
    init = params[index].init
    args = {**init.args, key: changed(init.args[key])}
    params[index] = type(params[index])(params[index].value, Init(init.kind, args), params[index].kind)
    return fn.with_(params=tuple(params))


def twin(functions: Mapping[str, Function], place: tuple[str, str, int, str]) -> dict[str, Function]:
    """Copies of functions under other names, one of them with another number."""
    copies = {}
    for name, fn in functions.items():
        fn = altered(fn, *place[1:]) if name == place[0] else fn
        nodes = []
        for node in fn.nodes:
            renamed = {key: f"{TWIN}{node.attrs[key]}" for key in ("fn", "body") if callees(node) and key in node.attrs}
            nodes.append(type(node)(node.op, node.inputs, node.outputs, {**node.attrs, **renamed}, node.loc))
        copies[f"{TWIN}{name}"] = fn.with_(name=f"{TWIN}{name}", nodes=tuple(nodes))
    return copies


def classes_below(file: ModelFile, network: str) -> list[str]:
    """Texts of the classes of a network, from its own down, with numbers in place of names."""
    arrays = {name: zlib.crc32(array.tobytes()) for name, array in file.constants.items()}
    text = re.sub(r'CONSTANTS\["(.*?)"\]', lambda match: f"CONSTANTS[{arrays[match[1]]}]", file.text)
    texts = dict(re.findall(r"^class (\w+)\(nn\.Module\):\n((?:(?:    .*)?\n)*)", text, re.M))
    builder = "build" if network == "main" else f"build_{network}"
    found = re.search(rf"^def {builder}\(.*\n(?:(?:    .*)?\n)*", text, re.M)
    assert found is not None, network
    order: dict[str, int] = {}
    known = re.compile(rf"\b({'|'.join(texts)})\(")
    result, todo = [], [found[0].partition("\n")[2]]
    while todo:
        part = todo.pop(0)
        new = [name for name in dict.fromkeys(known.findall(part)) if name not in order]
        order |= {name: len(order) + i for i, name in enumerate(new)}
        for name in order:
            part = re.sub(rf"\b{name}\(", f"Class{order[name]}(", part)
        result.append(ast.unparse(ast.parse(textwrap.dedent(part))))  # lines break by the length of names
        todo += [texts[name] for name in new]
    return result


def run(seed: int) -> str:
    """The outcome of a case: `the same` classes, `others`, or none. AssertionError if a network was not its own."""
    chance = random.Random(seed)
    system = chance.choice(sorted(SYSTEMS))
    built = lowered(system)
    network = chance.choice(sorted(built.networks))
    methods = tuple(built.networks[network].functions)
    functions = reachable(built.module, methods)
    found = sorted(places(functions))
    if not found:
        return "no number"
    place = chance.choice(found)
    copies = twin(functions, place)
    names = {"main": methods, "twin": tuple(f"{TWIN}{name}" for name in methods)}
    module = Module({**functions, **copies}, {})
    try:
        both = networks_file(module, names)
    except EmitError:  # the number is also in another method, where it is unchanged
        return "refused"
    for name, own in (("main", functions), ("twin", copies)):
        alone = networks_file(Module(own, {}), {name: names[name]})
        assert classes_below(both, name) == classes_below(alone, name), f"{name} of {system}, {network}: {place}"
    return "the same" if classes_below(both, "main") == classes_below(both, "twin") else "others"
