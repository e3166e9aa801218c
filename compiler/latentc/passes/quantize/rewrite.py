"""The quantisation pass. A function that is called under different plans is rewritten once for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from latentc.engines import ENGINES
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Init, Module, Node, Param, Recipe, Uses, Value, callees, in_order, join
from latentc.ir.ops import OPS
from latentc.ir.types import f32
from latentc.passes.heads import split_heads_late
from latentc.passes.quantize.forms import Form, Operands, form_in_training, form_of
from latentc.passes.quantize.plan import LayerQuant, Scheme, layers_of, prefix_of
from latentc.passes.quantize.smooth import Folds, fold, foldable_inputs
from latentc.passes.rewrite import rewrite, rewrite_function

_Plan = tuple[tuple[str, LayerQuant], ...]  # of one function, with paths relative to it


def quantize(module: Module, plan: Mapping[str, LayerQuant], engine: str) -> Module:
    """Quantises the layers of `plan` in the forms of `engine`; returns the module unchanged for an empty plan.

    `module` is at stage `expanded`. Raises ValueError for a path that is not a quantisable layer (see `quantizable`).
    """
    if not plan:
        return module
    work = _Quantisation(module, plan, lambda op, scheme: form_of(op, scheme, engine))
    entries = {e: work.function(fn, prefix_of(module, e)) for e, fn in module.entries.items()}
    if unknown := set(plan) - work.found:
        raise ValueError(f"no layer that can be quantised is called {sorted(unknown)[0]}")
    quantised = Module(dict(work.owner.functions), entries)
    return split_heads_late(quantised) if ENGINES[engine].quantised.split_heads_late else quantised


def fake_quantized(module: Module, plan: Mapping[str, LayerQuant], engine: str) -> Module:
    """Rounds the layers of `plan` in training as `engine` will; their inputs' scales are params `….input_scale`.

    Batch norms use their running statistics, as in the engine. `module` is at stage `train`. Classes of rewritten
    functions get the prefix `Quantized`, since networks that are not in the plan may share them. Raises ValueError as
    `quantize`.
    """
    module = rewrite(module, _of_inference)
    work = _Quantisation(module, plan, lambda op, scheme: form_in_training(op, scheme, engine), "Quantized")
    entries = {e: work.function(fn, prefix_of(module, e)) for e, fn in module.entries.items()}
    if unknown := set(plan) - work.found:
        raise ValueError(f"no layer that can be quantised is called {sorted(unknown)[0]}")
    return in_order(Module(dict(work.owner.functions), entries))


def _of_inference(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
    """A batch norm as it is in inference."""
    decompose = OPS[node.op].decompose if node.op == "batch_norm" else None
    return None if decompose is None else list(decompose(b, operands, node.attrs))


@dataclass(frozen=True)
class _Version:
    """A function under a plan: its name, and {input that callers must divide: name of the smoothing vector in it}."""

    name: str
    divided: Mapping[int, str] = field(default_factory=dict)


class _Quantisation:
    """`mark` begins the names of the classes of rewritten functions."""

    def __init__(
        self, module: Module, plan: Mapping[str, LayerQuant], form: Callable[[str, Scheme], Form], mark: str = ""
    ) -> None:
        self.module, self.plan, self.form, self.mark = module, plan, form, mark
        self.owner = ModuleBuilder()
        self.found: set[str] = set()
        self.foldable = foldable_inputs(module)
        self._paths: dict[str, tuple[str, ...]] = {}
        self._plans = self._all_plans()
        self._versions: dict[tuple[str, _Plan], _Version] = {}

    def function(self, name: str, prefix: str) -> str:
        return self.version(name, prefix).name

    def paths(self, name: str) -> tuple[str, ...]:
        """Paths of the weights of all layers that a function reaches, relative to it."""
        if name not in self._paths:
            fn = self.module.functions[name]
            own = dict.fromkeys(weight.name for weight, _ in layers_of(fn, bool(self.mark)).values())
            for node in fn.nodes:
                for callee in callees(node):
                    own.update(dict.fromkeys(join(node.attrs.get("name", ""), p) for p in self.paths(callee)))
            self._paths[name] = tuple(own)
        return self._paths[name]

    def plan_of(self, name: str, prefix: str) -> _Plan:
        """The part of the plan for a function called under `prefix`."""
        given = ((path, self.plan.get(join(prefix, path))) for path in self.paths(name))
        return tuple((path, how) for path, how in given if how is not None)

    def _all_plans(self) -> dict[str, set[_Plan]]:
        """{function: the plans under which it is called}"""
        plans: dict[str, set[_Plan]] = {}

        def visit(name: str, prefix: str) -> None:
            plan = self.plan_of(name, prefix)
            self.found.update(join(prefix, path) for path, _ in plan)
            if plan in plans.setdefault(name, set()):
                return
            plans[name].add(plan)
            for node in self.module.functions[name].nodes:
                for callee in callees(node):
                    visit(callee, join(prefix, node.attrs.get("name", "")))

        for entry, name in self.module.entries.items():
            visit(name, prefix_of(self.module, entry))
        return plans

    def version(self, name: str, prefix: str) -> _Version:
        """The version of a function for calls under `prefix`, built at first use."""
        plan = self.plan_of(name, prefix)
        if (name, plan) not in self._versions:
            fn = self.module.functions[name]
            called = {
                node: self.version(callee, join(prefix, node.attrs.get("name", "")))
                for node in fn.nodes
                for callee in callees(node)
            }
            self._versions[name, plan] = self._written(fn, dict(plan), called)
        return self._versions[name, plan]

    def _written(self, fn: Function, plan: Mapping[str, LayerQuant], called: Mapping[Node, _Version]) -> _Version:
        schemes = {how.scheme for how in plan.values()}
        name = fn.name
        if len(self._plans[fn.name]) > 1 and plan:
            name = self.owner.unique(f"{fn.name}.{schemes.pop() if len(schemes) == 1 else 'mixed'}")
        same = all(version.name == callee for node, version in called.items() for callee in callees(node))
        if not plan and same:
            self.owner.functions[name] = fn
            return _Version(name)
        return _Body(self, fn, name, plan, called).written()


class _Body:
    """One function being rewritten under one plan."""

    def __init__(
        self,
        work: _Quantisation,
        fn: Function,
        name: str,
        plan: Mapping[str, LayerQuant],
        called: Mapping[Node, _Version],
    ) -> None:
        self.work, self.fn, self.name, self.plan, self.called = work, fn, name, plan, called
        self.layers = {n: of for n, of in layers_of(fn, bool(work.mark)).items() if of[0].name in plan}
        self.smooth = {n: g for n, (w, g) in self.layers.items() if plan[w.name].smooth and n.op == "linear"}
        self.uses = Uses(fn)
        self.folds = Folds()
        self.ready: dict[Value, str] = {}  # values that are divided at their source: name of the vector
        self.divided = self._divided()
        self.shared: dict[tuple[Value, str], Var] = {}
        self.rounded: dict[tuple[Value, str, bool], tuple[Var, Var]] = {}

    def _divided(self) -> dict[int, str]:
        """Decides where smoothed values are divided; returns {input that callers must divide: name of the vector}."""
        inputs: dict[int, str] = {}
        number = {v: i for i, v in enumerate(self.fn.inputs)}
        for node, group in self.smooth.items():
            value = node.inputs[0]
            readers = sum(n.inputs[0] is value for n in self.smooth)
            if readers != self.uses.count(value) or value in self.ready:
                continue
            if number.get(value) in self.work.foldable.get(self.fn.name, ()):
                inputs[number[value]] = group
            elif not fold(self.uses, value, group, self.folds):
                continue
            self.ready[value] = group
        for node, version in self.called.items():
            for i, group in version.divided.items():
                fold(self.uses, node.inputs[i], join(node.attrs["name"], group), self.folds)
        return inputs

    def written(self) -> _Version:
        new = rewrite_function(self.work.owner, self.fn.with_(name=self.name), self._node)
        used, replaced = new.used(), {weight for weight, _ in self.layers.values()}
        params = tuple(p for p in new.params if p.value in used or p not in replaced)
        origin = new.origin
        if origin is not None and self.work.mark:
            origin = replace(origin, cls=f"{self.work.mark}{origin.cls}")
        self.work.owner.functions[self.name] = new.with_(params=params, origin=origin)
        return _Version(self.name, self.divided)

    def _node(self, b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node in self.layers:
            return [self._layer(b, node, operands)]
        if node in self.called:
            return b.keep(self._call(node), operands)
        if node in self.folds.norms:
            return [self._norm(b, node, operands)]
        if node in self.folds.sums:
            i, smooth = self.folds.sums[node]
            operands[i] = b.op("mul", operands[i], _divisor(b, smooth, _size(node)))
            return b.keep(node, operands)
        return None

    def _call(self, node: Node) -> Node:
        key = "body" if node.op == "loop" else "fn"
        if node.attrs[key] == self.called[node].name:
            return node
        return Node(node.op, node.inputs, node.outputs, {**node.attrs, key: self.called[node].name}, node.loc)

    def _layer(self, b: Builder, node: Node, operands: list[Var]) -> Var:
        x, kept, *bias = operands
        weight, group = self.layers[node]
        value: Recipe | Param = weight
        if node in self.smooth:
            size = weight.type.shape[1]
            value = Recipe("mul", (weight, _vector(f"{group}.smooth", size)))
            if node.inputs[0] not in self.ready:
                key = (node.inputs[0], group)
                if key not in self.shared:
                    self.shared[key] = b.op("mul", x, _divisor(b, group, size))
                x = self.shared[key]
        how = self.plan[weight.name]
        form = self.work.form(node.op, how.scheme)
        return form(b, Operands(node, x, kept, tuple(bias), weight, value, group, how.narrow, self.rounded))

    def _norm(self, b: Builder, node: Node, operands: list[Var]) -> Var:
        divisor = _divisor(b, self.folds.norms[node], _size(node))
        x, *affine = operands
        scaled = [b.op("mul", a, divisor) for a in affine] or [divisor]
        return b.op(node.op, x, *scaled, **node.attrs)


def _vector(name: str, size: object) -> Param:
    """A measured vector as an argument of recipes."""
    return Param(Value(name, f32(size)), Init("ones"), "calibrated")  # type: ignore[arg-type]


def _divisor(b: Builder, group: str, size: object) -> Var:
    """The reciprocal of the smoothing vector of a group."""
    return b.derived(f"{group}.unsmooth", Recipe("reciprocal", (_vector(f"{group}.smooth", size),)))


def _size(node: Node) -> object:
    return node.outputs[0].type.shape[-1]
