"""Shared by losses and sampling programs: conditions, and calls of networks by the roles of their ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from latentc.components.capabilities import TRAINING, Role
from latentc.components.condition import Condition, GivenInput, encoded_null
from latentc.components.contract import CopiedProgram, Draw, Network, Port
from latentc.components.parts import Refusal, Spec
from latentc.ir.builder import Builder, Var, as_tuple, f32, i64
from latentc.ir.core import Value
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import ConditionSource, RandomSource, Setting, SettingSource, Source

Operands = Mapping[str, Var]
"""Operands of conditions by the names of their ports."""

_EMPTY = "empty_"
"""Prefix of the name of a port: the operand that replaces a dropped condition, computed by a network or given."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of a spec, as a loss or a program of it reads, drops and leaves them out.

    `names`: those that matter here; by default all that a network takes. Conditions without inputs, which the
    loss or the program computes, are not among them.
    """

    spec: Spec
    networks: Mapping[str, Network]
    names: tuple[str, ...] | None = None

    def items(self) -> list[tuple[str, Condition]]:
        """The conditions with their names, in the spec's order."""
        methods = [method for network in self.networks.values() for method in network.methods.values()]
        taken = {port.name for method in methods for port in method.inputs_of("condition")}

        def matters(name: str, condition: Condition) -> bool:
            if self.names is not None:
                return name in self.names
            return any(port.name in taken for port in condition.ports(name, self.spec))

        every = self.spec.conditions.items()
        return [(name, one) for name, one in every if one.inputs(name, self.spec) and matters(name, one)]

    @property
    def fields(self) -> tuple[str, ...]:
        """The data fields that training reads for them."""
        return tuple(self.stored)

    @property
    def stored(self) -> dict[str, TensorType]:
        """The types of these fields in the data."""
        found: dict[str, TensorType] = {}
        for name, condition in self.items():
            for given in condition.inputs(name, self.spec):
                if not isinstance(given, GivenInput) or given.draw is not None:
                    continue
                if given.cached is not None:
                    found |= dict.fromkeys(given.cached.fields, given.cached.type)
                else:
                    found[given.field] = given.source
        return found

    def inputs(self, b: Builder, by_field: bool = False, sample: Var | None = None) -> dict[str, Var]:
        """Adds the inputs that data or a request supplies to a function, and returns them by name.

        A loss takes them `by_field`: under the name of the data field. In a program, a condition with a prior has the
        random inputs and settings of its prior's program instead. `sample`: an input of that name, for conditions that
        are made of it.
        """
        found: dict[str, Var] = {}
        made: dict[str, Var] = {} if sample is None else {sample.value.name: sample}
        for name, condition in self.items():
            if condition.prior is not None and not by_field:
                for key, (value, _) in self._prior_inputs(name, condition).items():
                    found[key] = b.input(key, value.type)
                continue
            for given in condition.inputs(name, self.spec):
                if not by_field or not isinstance(given, GivenInput):
                    made[given.name] = made.get(given.name) or b.input(given.name, given.type)
                    found[given.name] = made[given.name]
                elif given.cached is not None:
                    names = (name, _EMPTY + name)  # the features, and those of the null, if there are any
                    for key, field in zip(names, given.cached.fields, strict=False):
                        found[key] = b.given(field) or b.input(field, given.cached.type)
                elif given.draw is not None:
                    found[given.name] = given.read(b, b.input(given.name, given.source))
                else:
                    if given.field not in made:
                        # A condition may be computed from the very sample that the loss reads.
                        made[given.field] = b.given(given.field) or b.input(given.field, given.source)
                    found[given.name] = given.read(b, made[given.field])
        return found

    def operands(self, b: Builder, inputs: Operands) -> dict[str, Var]:
        """Operands of networks, computed from the inputs. Conditions that are not among these are drawn.

        Includes what networks compute for dropped conditions, so that loops need not do so again.
        """
        known, found = dict(inputs), dict[str, Var]()
        # Conditions with a prior come last, because priors may take the others as conditions.
        for name, condition in sorted(self.items(), key=lambda item: item[1].prior is not None):
            every = condition.inputs(name, self.spec)
            nulls = {i.null_of: i.name for i in every if isinstance(i, GivenInput) and i.null_of is not None}
            own = [i.name for i in every if i.name not in nulls.values()]
            if condition.prior is not None and own[0] not in known:
                known[own[0]] = self._drawn(b, name, condition, known)
            made = condition.operands(b, name, tuple(known[key] for key in own), self.networks)
            found |= {port.name: x for port, x in zip(condition.ports(name, self.spec), made, strict=True)}
            found |= {_EMPTY + port: known[key] for port, key in nulls.items()}
            if condition.nullable:
                encoded = self._encoded_null(b, name, condition, known.get(_EMPTY + name))
                found |= {_EMPTY + port: x for port, x in encoded.items()}
        return found

    def _encoded_null(self, b: Builder, name: str, condition: Condition, known: Var | None = None) -> dict[str, Var]:
        """Nulls that networks compute, or computed before training, by the names of ports."""
        ports = [port.name for port in condition.ports(name, self.spec)]
        nulls = encoded_null(b, name, condition, self.spec, self.networks, known)
        return dict(zip(ports, nulls, strict=True)) if nulls else {}

    def _prior_program(self, name: str, condition: Condition) -> CopiedProgram:
        assert condition.prior is not None
        return self.networks[condition.prior.network].drawn[name]

    def _prior_inputs(self, name: str, condition: Condition) -> dict[str, tuple[Value, Source]]:
        """{name: (input of the prior's program, its source)} of the inputs that are not conditions."""
        program = self._prior_program(name, condition)
        return {
            f"{name}_{value.name}": (value, own_source(name, source))
            for value in program.function.inputs
            if not isinstance(source := program.sources[value.name], ConditionSource)
        }

    def _drawn(self, b: Builder, name: str, condition: Condition, known: Operands) -> Var:
        """A sample of the prior of a condition: the nodes of its program."""
        fn = self._prior_program(name, condition).function
        made = {v: known[v.name] if v.name in known else known[f"{name}_{v.name}"] for v in fn.inputs}
        for node in fn.nodes:
            outputs = b.copied(node, [made[v] for v in node.inputs])
            made |= dict(zip(node.outputs, outputs, strict=True))
        return made[fn.outputs[0]]

    def drawn(self) -> tuple[Draw, ...]:
        """Random inputs that training draws for conditions without data."""
        inputs = (given for n, c in self.items() for given in c.inputs(n, self.spec))
        return tuple(given.draw for given in inputs if given.draw is not None)

    def draws(self, prefix: str = "") -> tuple[Draw, ...]:
        """The uniform number per sample that decides whether a condition is dropped, one for each that may be, and the
        number of the one that is kept in turn. Losses that drop conditions more than once name them by `prefix`."""
        drops = (
            Draw(
                prefix + ("drop" if name == "class" else f"drop_{name}"),
                "uniform",
                meaning=f"condition `{name}` is dropped below {condition.dropout:g}; 1 keeps it",
            )
            for name, condition in self.items()
            if condition.dropout
        )
        return *drops, *([Draw(f"{prefix}turn", "integers", {"high": len(self.turns)})] if self.turns else [])

    @property
    def turns(self) -> tuple[str, ...]:
        """The conditions of which training gives each sample one."""
        every = (one for network in self.networks.values() for one in (network, *network.adapters))
        return tuple(dict.fromkeys(name for network in every for name in network.in_turn))

    def dropped(self, b: Builder, operands: Operands, prefix: str = "") -> dict[str, Var]:
        """The operands in training: each condition is dropped with its own probability. Adds the draws as inputs."""
        return self.dropping(b, operands, prefix)[0]

    def dropping(self, b: Builder, operands: Operands, prefix: str = "") -> tuple[dict[str, Var], list[Var]]:
        """As `dropped`, with a mask bool[B] per condition that may be: true where it is."""
        found, masks, turns = dict(operands), [], self.turns
        turn = b.input(f"{prefix}turn", i64(B)) if turns else None
        for name, condition in self.items():
            if not condition.dropout:
                continue
            drop = b.input(prefix + ("drop" if name == "class" else f"drop_{name}"), f32(B))
            gone = b.less(drop, condition.dropout)
            if turn is not None and name in turns:
                gone = b.where(b.equal(turn, turns.index(name)), gone, b.constant(True), out="gone")
            masks.append(gone)
            for key, null in self._null_of(b, name, condition, operands).items():
                x = operands[key]
                column = b.reshape(gone, shape=(gone.shape[0], *(1 for _ in x.shape[1:]))) if x.type.rank > 1 else gone
                found[key] = b.where(column, null, x, out=key)
        return found, masks

    def null(self, b: Builder, operands: Operands, without: Iterable[str] | None = None) -> dict[str, Var]:
        """The operands with the conditions `without` (default: all that training drops) left out."""
        names = [n for n, c in self.items() if c.nullable] if without is None else list(without)
        found = dict(operands)
        for name, condition in self.items():
            if name in names:
                for key, null in self._null_of(b, name, condition, operands).items():
                    like = operands[key]
                    found[key] = b.broadcast_to(null, like, shape=like.shape, out="null")
        return found

    def _null_of(self, b: Builder, name: str, condition: Condition, operands: Operands) -> dict[str, Var]:
        ports = [port.name for port in condition.ports(name, self.spec)]
        if all(_EMPTY + port in operands for port in ports):
            return {port: operands[_EMPTY + port] for port in ports}
        if encoded := self._encoded_null(b, name, condition):
            return encoded
        nulls = condition.null_operands(b, name, tuple(operands[p] for p in ports), self.spec)
        return dict(zip(ports, nulls, strict=True))

    def sources(self) -> dict[str, Source]:
        """Sources of a program's inputs."""
        found: dict[str, Source] = {}
        for name, condition in self.items():
            if condition.prior is not None:
                found |= {key: source for key, (_, source) in self._prior_inputs(name, condition).items()}
                continue
            for given in condition.inputs(name, self.spec):
                if isinstance(given, GivenInput):
                    found[given.name] = given.random or ConditionSource(given.request, given.part)
                else:
                    found[given.name] = SettingSource(given.setting.name)
        return found


def own_source(name: str, source: Source) -> Source:
    """The source of an input of a program `name` in another one that contains it: no stream or setting is shared."""
    if isinstance(source, RandomSource):
        settings = {key: f"{name}_{setting}" for key, setting in source.settings.items()}
        return replace(source, stream=f"{name}.{source.stream}", settings=settings)
    return SettingSource(f"{name}_{source.setting}") if isinstance(source, SettingSource) else source


def own_setting(name: str, setting: Setting) -> Setting:
    """A setting of a program `name` in another one that contains it."""
    above = None if setting.above is None else f"{name}_{setting.above}"
    return replace(setting, name=f"{name}_{setting.name}", above=above)


def call(b: Builder, network: Network, method: str, conditions: Operands, out: str = "", **by_role: Any) -> Any:
    """Calls a method, its operands by role: `state=x, time=t`, `cache=[...]`; conditions by the names of ports.

    Of several times those that are not given are 0.
    """
    operands = _arranged(b, network, method, conditions, by_role)
    return b.call(network.methods[method].function, network.name, *operands, out=out)


def training_method(network: Network) -> str:
    """The method of a denoiser that losses call."""
    return TRAINING if TRAINING in network.methods else "forward"


def training_noise(b: Builder, network: Network) -> tuple[list[Var], tuple[Draw, ...]]:
    """Adds the noise that the network takes in training as inputs; also returns how they are drawn."""
    ports = network.methods[training_method(network)].inputs_of("noise")
    return [b.input(port.name, port.type) for port in ports], tuple(Draw(port.name, "uniform") for port in ports)


def derivative_along(
    b: Builder,
    network: Network,
    method: str,
    conditions: Operands,
    tangents: Mapping[Role, Var | list[Var]],
    out: str,
    **by_role: Any,
) -> tuple[Var, Var]:
    """(first output of a method, its derivative along `tangents`), which has one for each input of the roles it names.

    `out` names both.
    """
    of = network.methods[method]
    if network.adapters:
        raise ValueError(
            f"network `{network.name}` is differentiated, but the derivative would leave out what its adapter adds"
        )
    operands = _arranged(b, network, method, conditions, by_role)
    wrt = tuple(i for i, port in enumerate(of.inputs) if port.role in tangents)
    along = _in_order(b, tuple(of.inputs[i] for i in wrt), {}, tangents)
    y, tangent = b.jvp(of.function, network.name, operands, along, wrt=wrt, out=out)
    return y, tangent


def state_gradient(
    b: Builder, network: Network, conditions: Operands, x: Var, output: str = "score", out: str = ""
) -> Var:
    """The gradient of the sum of one output of `forward` by its state x, of x's type; it can be differentiated again.

    `out` names that output and the gradient.
    """
    method = network.methods["forward"]
    of = [port.name for port in method.outputs].index(output)
    wrt = (method.inputs.index(method.input("state")),)
    operands = _arranged(b, network, "forward", conditions, {"state": x})
    return b.gradient(method.function, network.name, operands, of=of, wrt=wrt, out=out)[1]


def guided_call(
    b: Builder,
    network: Network,
    method: str,
    conditions: Operands,
    null: Operands,
    scale: Var | None,
    channels: int | None = None,
    out: str = "",
    **by_role: Any,
) -> Any:
    """A call under classifier-free guidance: u + scale (c - u), c with `conditions` and u with `null` in their place.

    `channels`: the number of leading channels that are guided; None: all. Caches hold both branches. Without a `scale`
    a plain call, which does not need `null`.
    """
    if scale is None:
        return call(b, network, method, conditions, out, **by_role)
    of = network.methods[method]
    made: Controls = {}
    operands, others = (_arranged(b, network, method, given, by_role, made) for given in (conditions, null))
    kinds, nulls = [], []
    for port, x, other in zip(of.inputs, operands, others, strict=True):
        differs = port.role in ("condition", "control") and other is not x
        carried = port.role in ("cache", "memory")
        kinds.append("carried" if carried else "conditional" if differs else "shared")
        nulls += [other] if differs else []
    guides = ["carried" if port.role in ("cache", "memory") else "guided" for port in of.outputs]
    args = (of.function, network.name, operands, tuple(kinds), tuple(nulls), scale, tuple(guides), channels)
    return b.guided(*args, out=out) if out else b.guided(*args)


def both_branches(
    b: Builder, network: Network, method: str, conditions: Operands, null: Operands, out: str = "", **by_role: Any
) -> tuple[Var, Var]:
    """A method's only output with `conditions` and with `null` in their place, by one call of a doubled batch."""
    of = network.methods[method]
    given, without = (_arranged(b, network, method, operands, by_role) for operands in (conditions, null))
    pairs = zip(given, without, strict=True)
    both = b.call(of.function, network.name, *(b.concat(x, other, axis=0) for x, other in pairs), out=out)
    batch = next(iter(conditions.values())).shape[0]
    cond, uncond = b.split(both, axis=0, sizes=(batch, batch), out=f"{out} null_{out}")
    return cond, uncond


Controls = dict[tuple[str, tuple[int, ...]], tuple[Var, ...]]
"""Outputs of adapters by their names and the identities of their operands."""


def _arranged(
    b: Builder,
    network: Network,
    method: str,
    conditions: Operands,
    by_role: Mapping[Any, Any],
    made: Controls | None = None,
) -> list[Var]:
    """The operands of a method in the order of its ports; the network's adapters compute those of role `control`.

    `made` holds what they computed for the same operands before. Refusal: the network takes a memory or a condition
    that is not among the operands, or operands of other sizes.
    """
    of, made = network.methods[method], {} if made is None else made
    if of.inputs_of("memory") and not by_role.get("memory"):
        message = f"network `{network.name}` takes its memory of the last evaluation, which is not kept here"
        raise Refusal(message, "use a network without memory")
    if lacking := [port.name for port in of.inputs_of("condition") if port.name not in conditions]:
        message = f"network `{network.name}` takes the condition `{lacking[0]}`, which is not given here"
        raise Refusal(message, f"list only conditions that are in `networks.{network.name}.conditions`")
    controls: list[Var] = []
    for adapter in network.adapters if of.inputs_of("control") else ():
        own = adapter.main
        roles = {role: by_role[role] for role in ("state", "time")}
        operands = _arranged(b, adapter, adapter.main_method, conditions, roles, made)
        key = adapter.name, tuple(map(id, operands))
        if key not in made:
            out = " ".join("control" for _ in own.outputs)
            made[key] = as_tuple(b.call(own.function, adapter.name, *operands, out=out))
        controls += made[key]
    operands = _in_order(b, of.inputs, conditions, {**by_role, "control": controls})
    for port, operand in zip(of.inputs, operands, strict=True):
        if not _fits(port.type, operand.type):
            message = (
                f"network `{network.name}` takes {_words(port.type)} as `{port.name}`, "
                f"but is given {_words(operand.type)}"
            )
            raise Refusal(message, "give the networks the same sizes")
    return operands


def _fits(wanted: TensorType, given: TensorType) -> bool:
    """True if the types agree in all but the batch and sizes that are not known yet."""
    if wanted.dtype != given.dtype or wanted.rank != given.rank:
        return False
    sizes = zip(wanted.shape[1:], given.shape[1:], strict=True)
    return all(a == b for a, b in sizes if isinstance(a, int) and isinstance(b, int))


def _words(type: TensorType) -> str:
    """A type without the names of its sizes."""
    return f"{type.dtype}[{', '.join(str(int(d)) if isinstance(d, int) else str(d) for d in type.shape)}]"


def _in_order(b: Builder, ports: tuple[Port, ...], conditions: Operands, by_role: Mapping[Any, Any]) -> list[Var]:
    """The operands in the order of the ports."""
    queues = {role: list(value) if isinstance(value, list | tuple) else [value] for role, value in by_role.items()}
    if missing := sum(port.role == "time" for port in ports) - len(times := queues.get("time", [])):
        times += [b.fill_like(times[0], 0.0)] * missing
    return [conditions[port.name] if port.role == "condition" else queues[port.role].pop(0) for port in ports]


def per_sample_mean(b: Builder, x: Var, out: str = "") -> Var:
    """f32[B]: the mean over everything but the batch."""
    return b.mean(x, axes=tuple(range(1, x.type.rank)), keepdims=False, out=out)


def first_channels(b: Builder, out: Var, like: Var) -> Var:
    """The first channels of out [B, C, ...], as many as `like` has: a prediction without the variance after it."""
    if out.shape[1] == like.shape[1]:
        return out
    return b.slice(out, axis=1, start=0, stop=like.shape[1], out=out.value.name)
