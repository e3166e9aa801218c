"""The rewriting engine: applies rules to each distinct function, and reports matches and near misses.

The `check` of a rule must refuse matches that the rule cannot rewrite. The engine itself ensures that a replacement has
the type of what it replaces, and that nothing outside a match uses its inner values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from latentc.ir.builder import ModuleBuilder, Rewriter, Var
from latentc.ir.core import Function, Module, Node, Uses, Value, live
from latentc.ir.ops import OpError
from latentc.ir.text import node_text
from latentc.passes.cleanup import cleanup
from latentc.passes.fuse.pattern import Match, Matcher, parse

_FULL = 1000  # depth of a miss whose pattern matched completely


@dataclass(frozen=True)
class Rule:
    """If one of `patterns` matches and `check` accepts, `replace` builds the replacement of the root.

    `check(match)` returns the reason for a refusal, or None. `replace(b, v)` gets the named values (as handles of the
    new function) and numbers as attributes: `v.x`, `v.EPS`. `v.match` is the match, and `v.env` has the handle of every
    value that is defined before the root. It returns the replacement of the root, or {value: its replacement}.
    """

    name: str
    patterns: tuple[str, ...]
    replace: Callable[[Rewriter, SimpleNamespace], Var | Mapping[Value, Var]]
    check: Callable[[Match], str | None] = lambda match: None


@dataclass(frozen=True)
class Miss:
    """Where a rule nearly matched, and why it did not; `depth` is the number of nodes that matched."""

    function: str
    node: str
    reason: str
    depth: int

    def text(self) -> str:
        return f"in {self.function}: {self.node}\n  {self.reason}"


@dataclass
class FusionReport:
    """By rule: how often it was applied, counting each distinct function once, and its nearest miss."""

    applied: dict[str, int] = field(default_factory=dict)
    misses: dict[str, Miss] = field(default_factory=dict)

    def missed(self, rule: str, fn: Function, node: Node, reason: str, depth: int) -> None:
        if depth > 1 and (rule not in self.misses or depth > self.misses[rule].depth):
            self.misses[rule] = Miss(fn.name, node_text(node), reason, depth)

    def why(self, rule: str) -> str:
        """The outcome of one rule, in a few lines."""
        count = self.applied.get(rule, 0)
        text = f"{rule}: applied {count} time{'' if count == 1 else 's'}\n"
        miss = self.misses.get(rule)
        return f"{text}nearest miss {miss.text()}\n" if miss else f"{text}nothing else nearly matches its pattern\n"


def fused(module: Module, rules: Sequence[Rule]) -> tuple[Module, FusionReport]:
    """The module after `fuse`, and the report."""
    report = FusionReport({rule.name: 0 for rule in rules})
    owner = ModuleBuilder(module)
    functions = {name: _function(owner, fn, rules, report) for name, fn in module.functions.items()}
    changed = module.with_functions(functions)
    return module if changed is module else cleanup(changed), report


def fuse(module: Module, rules: Sequence[Rule]) -> Module:
    """Applies the rules in order; returns the module unchanged if none matches."""
    return fused(module, rules)[0]


def _function(owner: ModuleBuilder, fn: Function, rules: Sequence[Rule], report: FusionReport) -> Function:
    uses = Uses(fn)
    for rule in rules:
        # A replacement may be part of the next match; each one makes the function smaller or its ops larger.
        for _ in range(len(fn.nodes) + 1):
            rewritten = _once(owner, uses, rule, report)
            if rewritten is fn:
                break
            fn, uses = rewritten, Uses(rewritten)
    return fn


def _once(owner: ModuleBuilder, uses: Uses, rule: Rule, report: FusionReport) -> Function:
    """One round of a rule: replaces all matches that share no node with an earlier one."""
    fn = uses.fn
    taken: set[Node] = set()
    found: dict[Node, Match] = {}  # by root
    for match in _matches(rule, uses, report):
        if taken.isdisjoint(match.nodes):
            taken.update(match.nodes)
            found[match.root] = match
    if not found:
        return fn
    b = Rewriter(owner, fn)
    env = b.own_values()
    changed = 0
    for node in fn.nodes:
        replaced = _replaced(b, rule, fn, found[node], env, report) if node in found else {}
        if replaced:
            changed += 1
            env.update(replaced)
        elif not all(v in env for v in node.outputs):  # else an earlier replacement covers this node
            env.update(zip(node.outputs, b.keep(node, [env[v] for v in node.inputs]), strict=True))
    if not changed:
        return fn
    report.applied[rule.name] += changed
    b.output([env[v] for v in fn.outputs])
    b.finish(fn.doc)
    new = owner.functions[fn.name]
    new = new.with_(nodes=live(new.nodes, new.outputs))
    used = new.used()
    return new.with_(params=tuple(p for p in new.params if p.recipe is None or p.value in used))


def _replaced(
    b: Rewriter, rule: Rule, fn: Function, match: Match, env: dict[Value, Var], report: FusionReport
) -> Mapping[Value, Var]:
    """{value: its replacement} for a match; empty if the replacement is ill-typed."""
    handles = {name: env[v] for name, v in match.values.items() if v in env}
    try:
        result = rule.replace(b, SimpleNamespace(match=match, env=env, **match.numbers, **handles))
    except OpError as error:
        report.missed(rule.name, fn, match.root, str(error), _FULL)
        return {}
    new = {match.root.outputs[0]: result} if isinstance(result, Var) else result
    for old, var in new.items():
        if var.type != old.type:
            report.missed(rule.name, fn, match.root, f"the replacement is {var.type}, not {old.type}", _FULL)
            return {}
    return new


def _matches(rule: Rule, uses: Uses, report: FusionReport) -> Iterator[Match]:
    """The first accepted match at each node; from the last node to the first, so that larger matches come first."""
    matchers = [Matcher(uses, parse(text)) for text in rule.patterns]
    roots = {matcher.pattern.op for matcher in matchers}

    def tries(node: Node) -> Iterator[Match]:
        for matcher in matchers:
            yield from matcher.at(node)
            depth, reason = matcher.nearest
            report.missed(rule.name, uses.fn, node, reason, depth)

    for node in (node for node in reversed(uses.fn.nodes) if node.op in roots):
        for match in tries(node):
            reason = _leaks(match) or rule.check(match)
            if reason is None:
                yield match
                break
            report.missed(rule.name, uses.fn, node, reason, _FULL)


def _leaks(match: Match) -> str | None:
    """The reason if an inner value of the match is used outside of it."""
    for node in match.nodes[1:]:
        value = node.outputs[0]
        if value in match.uses.outputs:
            return f"%{value.name} is also a result of the function"
        for user in match.uses.users.get(value, ()):
            if user not in match.nodes:
                return f"%{value.name} is also used by {node_text(user)}"
    return None
