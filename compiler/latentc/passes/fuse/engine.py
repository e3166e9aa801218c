"""The rewriting engine: rules applied to each distinct function, and a report of what fitted and what nearly did.

A rule that fits where it should not is a fault of its `check`; the engine itself sees to it that a replacement has the
type of what it replaces, and that nothing outside the pattern uses what the pattern takes apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from latentc.ir.builder import ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, live, prune
from latentc.ir.ops import OpError
from latentc.ir.rewriter import Rewriter
from latentc.ir.text import node_text
from latentc.passes.cleanup import cleanup
from latentc.passes.fuse.pattern import Match, Matcher, Uses, parse

_FULL = 1000  # depth of a miss that is a whole match refused


@dataclass(frozen=True)
class Rule:
    """Where one of `patterns` fits and `check` has nothing against it, its root becomes what `replace` builds.

    `check(match)` gives the reason why not, or None. `replace(b, v)` gets the named values as handles of the new
    function, and the named numbers, as attributes: `v.x`, `v.EPS`; `v.match` is the match, `v.env` what stands for each
    value that is known at the root. Instead of what stands for the root it may give that for several values.
    """

    name: str
    patterns: tuple[str, ...]
    replace: Callable[[Rewriter, SimpleNamespace], Var | Mapping[Value, Var]]
    check: Callable[[Match], str | None] = lambda match: None


@dataclass(frozen=True)
class Miss:
    """Where a rule nearly fitted, and why it did not; `depth` is how many nodes of its pattern did."""

    function: str
    node: str
    reason: str
    depth: int

    def text(self) -> str:
        return f"in {self.function}: {self.node}\n  {self.reason}"


@dataclass
class FusionReport:
    """By rule: how often it was applied in the distinct functions, and its nearest miss."""

    applied: dict[str, int] = field(default_factory=dict)
    misses: dict[str, Miss] = field(default_factory=dict)

    def missed(self, rule: str, fn: Function, node: Node, reason: str, depth: int) -> None:
        if depth > 1 and (rule not in self.misses or depth > self.misses[rule].depth):
            self.misses[rule] = Miss(fn.name, node_text(node), reason, depth)

    def why(self, rule: str) -> str:
        """What became of one rule, in a few lines."""
        count = self.applied.get(rule, 0)
        text = f"{rule}: applied {count} time{'' if count == 1 else 's'}\n"
        miss = self.misses.get(rule)
        return f"{text}nearest miss {miss.text()}\n" if miss else f"{text}nothing else comes near its pattern\n"


def fused(module: Module, rules: Sequence[Rule]) -> tuple[Module, FusionReport]:
    """The module with the rules applied, in their order, and the report; the same module where none fitted."""
    report = FusionReport({rule.name: 0 for rule in rules})
    owner = ModuleBuilder()
    owner.adopt(module)
    functions = {name: _function(owner, fn, rules, report) for name, fn in module.functions.items()}
    if all(functions[name] is fn for name, fn in module.functions.items()):
        return module, report
    changed = module.with_(functions=functions)
    return cleanup(prune(changed) if changed.entries else changed), report


def fuse(module: Module, rules: Sequence[Rule]) -> Module:
    """The module with the rules applied, in their order; the same object where none fitted."""
    return fused(module, rules)[0]


def _function(owner: ModuleBuilder, fn: Function, rules: Sequence[Rule], report: FusionReport) -> Function:
    for rule in rules:
        # What one replacement builds may be part of the next; each makes the function smaller or its ops larger.
        for _ in range(len(fn.nodes) + 1):
            rewritten = _once(owner, fn, rule, report)
            if rewritten is fn:
                break
            fn = rewritten
    return fn


def _once(owner: ModuleBuilder, fn: Function, rule: Rule, report: FusionReport) -> Function:
    """One round of a rule: every match that shares no node with one found before it."""
    uses = Uses(fn)
    taken: set[Node] = set()
    found: dict[Node, Match] = {}  # by root
    for match in _matches(rule, uses, report):
        if taken.isdisjoint(match.nodes):
            taken.update(match.nodes)
            found[match.root] = match
    if not found:
        return fn
    b = Rewriter(owner, fn)
    env: dict[Value, Var] = {v: Var(v, b) for v in (*fn.inputs, *(p.value for p in fn.params))}
    changed = 0
    for node in fn.nodes:
        made = _replaced(b, rule, fn, found[node], env, report) if node in found else {}
        if made:
            changed += 1
            env.update(made)
        elif not all(v in env for v in node.outputs):  # else a replacement before it stands for them
            env.update(zip(node.outputs, b.keep(node, [env[v] for v in node.inputs]), strict=True))
    if not changed:
        return fn
    report.applied[rule.name] += changed
    b.output([env[v] for v in fn.outputs])
    b.finish(fn.doc)
    new = owner.functions[fn.name]
    nodes = live(new.nodes, new.outputs)
    used = {v for node in nodes for v in node.inputs} | set(new.outputs)
    return new.with_(nodes=nodes, params=tuple(p for p in new.params if p.recipe is None or p.value in used))


def _replaced(
    b: Rewriter, rule: Rule, fn: Function, match: Match, env: dict[Value, Var], report: FusionReport
) -> Mapping[Value, Var]:
    """What stands for the match's root, and for what else; nothing where an op does not take it."""
    handles = {name: env[v] for name, v in match.values.items() if v in env}
    try:
        made = rule.replace(b, SimpleNamespace(match=match, env=env, **match.numbers, **handles))
    except OpError as error:
        report.missed(rule.name, fn, match.root, str(error), _FULL)
        return {}
    new = {match.root.outputs[0]: made} if isinstance(made, Var) else made
    for old, var in new.items():
        if var.type != old.type:
            report.missed(rule.name, fn, match.root, f"it would be {var.type}, not {old.type}", _FULL)
            return {}
    return new


def _matches(rule: Rule, uses: Uses, report: FusionReport) -> Iterator[Match]:
    """The first match at each node that nothing speaks against, the last nodes first: a larger one holds smaller."""
    matchers = [Matcher(uses, parse(text)) for text in rule.patterns]
    for node in reversed(uses.fn.nodes):
        for match in (match for matcher in matchers for match in _tries(matcher, rule, node, report)):
            reason = _leaks(match) or rule.check(match)
            if reason is None:
                yield match
                break
            report.missed(rule.name, uses.fn, node, reason, _FULL)


def _tries(matcher: Matcher, rule: Rule, node: Node, report: FusionReport) -> Iterator[Match]:
    yield from matcher.at(node)
    depth, reason = matcher.nearest
    report.missed(rule.name, matcher.uses.fn, node, reason, depth)


def _leaks(match: Match) -> str | None:
    """What of the pattern's inside is used elsewhere, if anything is."""
    for node in match.nodes[1:]:
        value = node.outputs[0]
        if value in match.uses.given:
            return f"%{value.name} is also a result of the function"
        for user in match.uses.users.get(value, ()):
            if user not in match.nodes:
                return f"%{value.name} is also used by {node_text(user)}"
    return None


__all__ = ["FusionReport", "Miss", "Rule", "fuse", "fused"]
