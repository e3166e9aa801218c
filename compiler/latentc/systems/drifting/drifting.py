"""Drifting: a generator learns to move its samples, in features, as they attract and repel each other.

Symbols: B classes of a batch, G samples per class, P positives, N negatives, C channels, T positions, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Method, Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.core import Function
from latentc.ir.types import B, Sym, TensorType
from latentc.systems.drifting.drift import drift_error
from latentc.systems.drifting.drift_scale import DriftScale

FEATURES, BANK = "features", "bank"


class Drifting(Objective):
    """Samples drift towards data of their class and away from each other (Deng et al. 2026, arXiv:2602.04770).

    For the class of each element of a batch, `main` makes several samples at one scale of guidance w. In every feature
    map of network `features`, frozen, they are attracted by positives, data of the class that network `bank` kept, and
    repelled by each other and, the more the larger w, by data of any class. The loss is the squared distance from where
    that moves them.
    """

    kind: Literal["drifting"]
    samples: int = Field(64, gt=1, le=65_536, description="samples per class (G)")
    positives: int = Field(64, gt=0, le=65_536, description="data of the class that attract them (P)")
    negatives: int = Field(32, gt=0, le=65_536, description="data of any class that repel them, for guidance (N)")
    unguided: Fraction = Field(0.0, description="fraction of classes whose scale is 1 instead of drawn")
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.2, 0.05, 0.02), min_length=1, max_length=16, description="temperatures of the kernel, of the mean distance"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "drifting", "samples": 3, "positives": 2, "negatives": 2}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        kept = {"positives": self.positives, "negatives": self.negatives}
        return (
            Need("main", "generate_of_codes"),
            Need(FEATURES, "feature_maps"),
            Need(BANK, "keep_samples", asks=kept),
        )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not spec.data.classes:
            yield Problem((), "samples drift towards data of their class, but the data has none", "set `data.classes`")
        if sum(isinstance(condition, DriftScale) for condition in spec.conditions.values()) != 1:
            message = "the generator does not take the scale of guidance"
            yield Problem((), message, "add one condition of kind `drift_scale`")
        for name, condition in spec.conditions.items():
            if condition.dropout:
                message = f"condition `{name}` is dropped in training, but the generator is never run without it"
                yield Problem((), message, f"set `conditioning.{name}.dropout: 0`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, bank = networks["main"].methods["forward"], networks[BANK].methods["forward"]
        scale_name = next(n for n, condition in spec.conditions.items() if isinstance(condition, DriftScale))
        (drawn_scale,) = spec.conditions[scale_name].inputs(scale_name, spec)
        kernels = self._kernels(mb, networks[FEATURES].methods["maps"])

        b = mb.function("loss")
        data = bank.input("state").type
        x, y = b.input("x", data), b.input("y", i64(B))
        noise, codes = main.inputs_of("noise")
        z = b.input("z", f32(B, self.samples, *noise.type.shape[1:]))
        code = b.input("codes", i64(B, self.samples, *codes.type.shape[1:]))
        scale = b.input(scale_name, f32(B))
        chances = [b.input(port.name, port.type) for port in bank.inputs_of("noise")]
        draws = [Draw("z", "normal"), Draw("codes", "integers", {"high": codes.values or 1}), drawn_scale.draw]
        draws += [Draw(port.name, "uniform") for port in bank.inputs_of("noise")]
        if self.unguided:
            scale = b.where(b.less(b.input("plain", f32(B)), self.unguided), 1.0, scale, out=scale_name)
            draws.append(Draw("plain", "uniform"))

        batch, count = x.shape[0], self.samples
        kept = call(b, networks[BANK], "forward", {}, state=x, position=y, noise=chances, out="positive negative old")
        positive, negative, _ = kept
        conditions = {"y": self._repeated(b, y, "y"), scale_name: self._repeated(b, scale, scale_name)}
        given = [b.reshape(v, shape=(batch * count, *v.shape[2:])) for v in (z, code)]
        made = call(b, networks["main"], "forward", conditions, noise=given, out="made")
        names = [v.name for v in networks[FEATURES].methods["maps"].outputs]
        of_made = call(b, networks[FEATURES], "maps", {}, state=made, out=" ".join(f"made_{n}" for n in names))
        both = b.concat(positive, negative, axis=1, out="both")
        shown = self.positives + self.negatives
        both = b.reshape(both, shape=(batch * shown, *data.shape[1:]), out="both")
        of_data = call(b, networks[FEATURES], "maps", {}, state=both, out=" ".join(f"data_{n}" for n in names))
        repulsion = b.mul(scale - 1.0, (count - 1) / self.negatives, out="repulsion")
        errors, forces = [], []
        for kernel, theirs, ours in zip(kernels, of_data, of_made, strict=True):
            error, force = b.call(kernel.name, "", ours, theirs, repulsion, out="error force")
            errors.append(error)
            forces.append(force)
        b.output(summed(b, "loss", errors), summed(b, "forces", forces))
        mb.entries["loss"] = b.finish("The sum over feature maps of the squared drift, and of the squared forces.")
        return (Update("loss", self.trained(spec), ("x", "y"), tuple(draws), ("loss", "force")),)

    def _repeated(self, b: Builder, value: Var, out: str) -> Var:
        """Each of [B] as often as there are samples of it: [B * G]."""
        batch, count = value.shape[0], self.samples
        wide = b.broadcast_to(b.reshape(value, shape=(batch, 1)), shape=(batch, count))
        return b.reshape(wide, shape=(batch * count,), out=out)

    def _kernels(self, mb: ModuleBuilder, maps: Method) -> list[Function]:
        """For each feature map a function of the features of samples and of data and of weights f32[B]: its error."""
        made = dict[tuple[int, int], Function]()
        sizes = [sizes_of(port.type) for port in maps.outputs]
        for size in sizes:
            if size not in made:
                made[size] = self._kernel(mb, *size)
        return [made[size] for size in sizes]

    def _drift(self, mb: ModuleBuilder, features: int) -> str:
        """A function of samples, positives, negatives and weights, one problem per row."""
        name = f"drift_of_{features}"
        if name in mb.functions:
            return name
        b, total = mb.function(name), self.samples + self.negatives + self.positives
        samples, positive, negative = (
            b.input(name, f32(B, count, features))
            for name, count in (("samples", self.samples), ("positive", self.positives), ("negative", self.negatives))
        )
        factors = b.input("factors", f32(B, total))
        errors, force = drift_error(b, samples, positive, negative, factors, self.temperatures)
        b.output(b.mean(errors, axes=(0,), keepdims=False, out="error"), force)
        return b.finish("The mean squared drift of samples, and the squared forces.")

    def _kernel(self, mb: ModuleBuilder, positions: int, features: int) -> Function:
        drift, count, shown = self._drift(mb, features), self.samples, self.positives + self.negatives
        b = mb.function(f"drift_at_{positions}_of_{features}")
        made = b.input("made", f32(B * count, positions, features))
        data = b.input("data", f32(B * shown, positions, features))
        repulsion = b.input("repulsion", f32(B))
        batch = repulsion.shape[0]

        def by_position(x: Var, each: int, out: str) -> Var:
            x = b.transpose(b.reshape(x, shape=(batch, each, positions, features)), perm=(0, 2, 1, 3))
            return b.reshape(x, shape=(batch * positions, each, features), out=out)

        samples, theirs = by_position(made, count, "samples"), by_position(data, shown, "theirs")
        positive, negative = b.split(theirs, axis=1, sizes=(self.positives, self.negatives), out="positive negative")
        column = b.reshape(repulsion, shape=(batch, 1, 1))
        ones = b.fill_like(column, 1.0)
        wide = [
            b.broadcast_to(value, shape=(batch, positions, many))
            for value, many in ((ones, count), (column, self.negatives), (ones, self.positives))
        ]
        weights = b.reshape(b.concat(*wide, axis=2), shape=(batch * positions, count + shown), out="weights")
        b.output(*b.call(drift, "", samples, positive, negative, weights, out="error force"))
        fn = b.finish("The mean squared drift of samples at each position of a feature map, and the squared forces.")
        return mb.functions[fn]


def sizes_of(features: TensorType) -> tuple[int, int]:
    """(T, D) of features f32[B, T, D]."""
    _, positions, channels = features.shape
    assert not isinstance(positions, Sym) and not isinstance(channels, Sym)
    return int(positions), int(channels)
