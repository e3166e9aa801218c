"""What the tables of trainings on digits are made of: what is trained, drawn and compared, and settings of all.

A system is trained once per entry of `trained`, drawn from and judged once per entry of `drawn`, and its goals compare
the figures of these. Specs of digits are trained as they say themselves, others in few steps of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Trained:
    """A spec with overrides, trained in its own number of steps if `steps` is None, from its own seed if `seed` is.

    `pretrained`: networks that start from the `main` of what another entry has trained.
    """

    spec: str
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    variant: str | None = None
    pretrained: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Drawn:
    """Samples of what an entry has trained, and which function of `Judges` judges them, with these arguments.

    `networks`: weights of further networks, the `main` of other entries. `spec`: of another spec than the one trained.
    """

    trained: str
    overrides: tuple[str, ...] = ()
    judge: str = "classes"
    given: Mapping[str, object] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    spec: Trained | None = None


@dataclass(frozen=True)
class Goal:
    """A figure that is computed from those of everything drawn, by name, and the bound that it is to keep."""

    what: str
    value: Callable[[Mapping[str, Figures]], float]
    bound: float
    least: bool = True


@dataclass(frozen=True)
class System:
    """What is trained and drawn by name, and the paper's claim as goals."""

    trained: Mapping[str, Trained]
    drawn: Mapping[str, Drawn]
    goals: tuple[Goal, ...] = ()
    deployed: str = ""

    @property
    def engine(self) -> str:
        """What is drawn of the technique itself: `deployed`, or the last entry."""
        return self.deployed or list(self.drawn)[-1]

    def of_seed(self, seed: int) -> System:
        """The same, everything trained from another seed; with 0 the specs' own, which is 0 too."""
        if not seed:
            return self
        return replace(self, trained={name: replace(one, seed=seed) for name, one in self.trained.items()})


def under(path: str, *sizes: str) -> tuple[str, ...]:
    """The overrides of one network."""
    return tuple(f"{path}.{size}" for size in sizes)


def ratio(figure: str, one: str, other: str) -> Callable[[Mapping[str, Figures]], float]:
    """The figure of one as a part of that of the other."""
    return lambda found: found[one][figure] / found[other][figure]


def accurate(
    spec: str,
    overrides: tuple[str, ...] = (),
    variant: str | None = None,
    steps: int | None = None,
    sampler: tuple[str, ...] = (),
) -> System:
    """One system of digits, whose samples are to be of the classes that are asked for."""
    goal = Goal("class accuracy", lambda found: found["samples"]["accuracy"], 0.95)
    trained = Trained(spec, overrides, steps, variant)
    return System({"trained": trained}, {"samples": Drawn("trained", sampler)}, (goal,))


def difference(figure: str, one: str, other: str) -> Callable[[Mapping[str, Figures]], float]:
    """The figure of one less that of the other."""
    return lambda found: found[one][figure] - found[other][figure]


DIGITS = "data={kind: digits}"
# Files that the benchmark writes.
CAPTIONS, LEVELS, BITS, VECTORS = "captions.npz", "dequantised.npz", "levels.npz", "vectors.npz"
SPOKEN_LEVELS, SPOKEN_DIGITS, WRITTEN_DIGITS = "spoken.npz", "worded.npz", "written.npz"
SCORED_LEVELS = "scored.npz"
FILES = (CAPTIONS, LEVELS, BITS, VECTORS, SPOKEN_LEVELS, SPOKEN_DIGITS, WRITTEN_DIGITS, SCORED_LEVELS)
# Letters of written captions: of those of 10 tokens `.` ends each, and `_` fills it up.
LETTERS = "_.abcdefghijklmnopqrstuvwxyz "
COMMON = ("train.log_every=1", "train.parallel=none", "train.workers=0")
# Of published specs; those of digits have their own.
SETTINGS = ("train.optimizer={kind: adamw, lr: 2e-3, weight_decay: 0}", "train.schedule={kind: constant, warmup: 50}")
SETTINGS += ("train.batch_size=64", "train.ema=0.99", "train.clip=1.0")
UNET = ("width=24", "multipliers=[1, 2]", "blocks=1", "attention=[1]", "block.dropout=0", "block.group_size=4")
