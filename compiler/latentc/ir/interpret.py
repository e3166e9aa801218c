"""The interpreter: runs a module in numpy, in float64 by default. Every backend is compared with it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentc.ir.core import Function, Module, Node, Param, Value, join
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.ops import OPS
from latentc.ir.recipes import evaluate
from latentc.ir.types import FLOATS, NUMPY, TensorType, unify

Array = np.ndarray[Any, Any]
_HALVES = ("f16", "bf16")


class Interpreter:
    """Runs functions of a module with weights `params` {state-dict path: array}.

    `float_dtype` is the dtype of all floats: "f64" for the oracle, "f32" to see rounding errors. With "declared" every
    value has the dtype of its type, and ops on half-precision operands compute in f32, as engines do.

    With `training`, ops behave as in training, `written` {state-dict path: array} holds the new values of state and of
    weights that ops overwrite, and `auxiliary` the losses that ops add to the objective, in the order of their calls;
    random ops (dropout) still behave as in inference. Raises ValueError if an input
    or weight has not its declared shape.
    """

    def __init__(
        self,
        module: Module,
        params: Mapping[str, Array] | None = None,
        float_dtype: str = "f64",
        training: bool = False,
    ) -> None:
        self.params, self.float_dtype, self.training = params or {}, float_dtype, training
        self.module = expand_derivatives(module)
        self.written: dict[str, Array] = {}
        self.auxiliary: list[Array] = []
        self._weights: dict[str, Array] = {}

    def run(self, function: str, *inputs: Any, prefix: str = "") -> tuple[Array, ...]:
        """Outputs of a function or entry, by name."""
        fn = self.module.functions[self.module.entries.get(function, function)]
        if len(inputs) != len(fn.inputs):
            raise ValueError(f"{fn.name} takes {len(fn.inputs)} inputs, got {len(inputs)}")
        sizes: dict[str, int] = {}
        arrays = [self._typed(x, v.type, v.name, sizes) for x, v in zip(inputs, fn.inputs, strict=True)]
        return tuple(self.call(fn, arrays, prefix))

    def _dtype(self, type: TensorType) -> Any:
        declared = self.float_dtype == "declared" or type.dtype not in FLOATS
        return NUMPY[type.dtype] if declared else NUMPY[self.float_dtype]

    def _typed(self, x: Any, type: TensorType, name: str, sizes: dict[str, int]) -> Array:
        array = np.asarray(x, dtype=self._dtype(type))
        actual = TensorType(type.dtype, array.shape)
        if not unify(type, actual, sizes):  # type: ignore[arg-type]
            known = "".join(f", {size}={n}" for size, n in sizes.items())
            raise ValueError(f"{name} is {list(array.shape)}; wants {type}{known}")
        return array

    def _weight(self, prefix: str, param: Param) -> Array:
        path = join(prefix, param.name)
        if path not in self._weights:
            if param.recipe is not None:
                value = evaluate(param.recipe, lambda own: self._weight(prefix, own))
            elif path in self.params:
                value = self.params[path]
            else:
                raise ValueError(f"no weight {path}; wants {param.type}")
            self._weights[path] = self._typed(value, param.type, path, {})
        return self._weights[path]

    def call(self, fn: Function, inputs: Sequence[Array], prefix: str) -> Sequence[Array]:
        """Outputs of a function called at the path `prefix`; subclasses may watch or replace calls."""
        env: dict[Value, Array] = dict(zip(fn.inputs, inputs, strict=True))
        for param in fn.params:
            env[param.value] = self._weight(prefix, param)
        kept = {p.value: join(prefix, p.name) for p in fn.params}
        for node in fn.nodes:
            xs = [env[v] for v in node.inputs]
            if self.training and node.op in OPS and (train := OPS[node.op].train) is not None:
                outs, updates = train(xs, node.attrs)
                self.written |= {kept[node.inputs[i]]: new for i, new in updates.items() if node.inputs[i] in kept}
            else:
                outs = self.node(node, xs, prefix)
            env.update(zip(node.outputs, outs, strict=True))
        return [env[v] for v in fn.outputs]

    def node(self, node: Node, xs: list[Array], prefix: str = "") -> Sequence[Array]:
        """Outputs of one node applied to arrays of the dtypes this interpreter uses."""
        match node.op:
            case "constant":
                return [np.asarray(node.attrs["value"]).astype(self._dtype(node.outputs[0].type))]
            case "cast":
                return [xs[0].astype(self._dtype(node.outputs[0].type))]
            case "full":
                shape = (len(xs[0]) * node.attrs.get("factor", 1), *map(int, node.attrs["shape"]))
                return [np.full(shape, node.attrs["value"], self._dtype(node.outputs[0].type))]
            case "call":
                return self.call(self.module.functions[node.attrs["fn"]], xs, join(prefix, node.attrs["name"]))
            case "guided":
                return self._guided(node, xs, prefix)
            case "loop":
                return self._loop(node, xs, prefix)
            case "auxiliary_loss":
                if self.training:
                    self.auxiliary.append(xs[1])
                return xs[:1]
            case "dropout" | "drop_path" | "training_noise":
                return xs[:1]  # as in inference
        row = OPS[node.op]
        assert row.evaluate is not None, node.op
        if self.float_dtype != "declared":
            return row.evaluate(xs, node.attrs)
        wide = [x.astype(np.float32) if v.type.dtype in _HALVES else x for v, x in zip(node.inputs, xs, strict=True)]
        outs = row.evaluate(wide, node.attrs)
        return [np.asarray(y).astype(self._dtype(o.type), copy=False) for y, o in zip(outs, node.outputs, strict=True)]

    def _guided(self, node: Node, xs: list[Array], prefix: str) -> list[Array]:
        kinds, guides, channels = node.attrs["kinds"], node.attrs["guides"], node.attrs["channels"]
        n = len(kinds)
        nulls, scale = iter(xs[n:-1]), xs[-1]
        both = []
        for x, kind in zip(xs[:n], kinds, strict=True):
            other = next(nulls) if kind == "conditional" else x
            both.append(x if kind == "carried" or x.ndim == 0 else np.concatenate([x, other]))
        run = functools.partial(self.call, prefix=join(prefix, node.attrs["name"]))
        outs = run(self.module.functions[node.attrs["fn"]], both)
        return [y if g == "carried" else combine(y, scale, channels) for y, g in zip(outs, guides, strict=True)]

    def _loop(self, node: Node, xs: list[Array], prefix: str) -> list[Array]:
        keep, carry = node.attrs["invariants"], node.attrs["carried"]
        body = self.module.functions[node.attrs["body"]]
        invariants, state, tables = xs[:keep], xs[keep : keep + carry], xs[keep + carry :]
        stacks: list[list[Array]] = []
        for i in range(node.attrs["trip"]):
            outs = self.call(body, [np.asarray(i), *invariants, *state, *(np.asarray(t[i]) for t in tables)], prefix)
            state, scanned = list(outs[:carry]), list(outs[carry:])
            stacks.append(scanned)
            if (until := node.attrs.get("until")) is not None and state[until]:
                break
        return [*state, *(np.stack(column) for column in zip(*stacks, strict=True))]


def combine(both: Array, scale: Array, channels: int | None) -> Array:
    """Guidance of a doubled output: u + scale (c - u), on the first `channels` of axis 1 if given."""
    cond, null = np.split(both, 2)
    guided: Array = null + scale.reshape(-1, *[1] * (cond.ndim - 1)) * (cond - null)
    if channels is None:
        return guided
    return np.concatenate([guided[:, :channels], cond[:, channels:]], axis=1)
