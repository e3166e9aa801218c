"""Base classes of the parts that networks are composed from.

Symbols: B batch, T tokens, D (`dim`) width, H heads.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component
from latentc.components.decoding import Chunk, DecodeState
from latentc.components.layers import INITS, linear, mp_linear
from latentc.ir.builder import BlockBody, Builder, Var
from latentc.ir.types import f32

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


Fraction = Annotated[float, Field(ge=0, le=1)]

Weights = Literal["xavier", "normal"]
"""How the weights of a network's linear layers are initialised; biases start at zero."""

Init = Literal["xavier", "normal", "unit_normal", "lecun", "zeros", "magnitude_preserving"]
"""How one weight is initialised, see `latentc.components.layers.INITS`; `magnitude_preserving`: as `mp_linear` does."""


def dense(b: Builder, name: str, x: Var, features: int, bias: bool, init: str, out: str = "") -> Var:
    """A Linear whose weight starts as `init` (an `Init`) says and whose bias starts at zero."""
    if init == "magnitude_preserving":
        return mp_linear(b, name, x, features, out=out)
    return linear(b, name, x, features, init, bias, out=out)


def portion(dim: int, ratio: float) -> int:
    """`ratio` times dim, rounded down; 109 of 88 if the ratio is 109 / 88, whatever its last digit."""
    return int(dim * ratio + 1e-6)


def table(b: Builder, name: str, rows: Any, width: Any, init: str) -> Var:
    """A weight f32[rows, width] that starts as `init` (an `Init`) says."""
    kind, args = INITS.get(init, (init, {}))
    return b.param(name, f32(rows, width), kind, **args)


@dataclass(frozen=True)
class Problem:
    """A mismatch between a component and the rest of the spec; `path` is relative to the component."""

    path: tuple[str | int, ...]
    message: str
    help: str | None = None


class Refusal(ValueError):
    """Raised while a component is built, by the line that needs what the spec lacks.

    Lowering turns it into a diagnostic at `path` below the component.
    """

    def __init__(self, message: str, help: str | None = None, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.problem = Problem(path, message, help)


def a_divisor(*sizes: int) -> str:
    """The remedy for a number that must divide all sizes."""
    common = math.gcd(*sizes)
    return f"choose one of {', '.join(str(d) for d in range(1, common + 1) if common % d == 0)}"


def under(*path: str | int, problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems of what stands at `path` in a component."""
    for problem in problems:
        yield replace(problem, path=(*path, *problem.path))


Applies = Mapping[str, tuple[str, tuple[Any, ...] | None]]
"""{an option: (another, the values of it with which the first applies)}; None: any but null and 0."""


class Part(Component):
    """A component that may object to the spec it stands in."""

    APPLIES: ClassVar[Applies] = {}
    """Options that apply only together with another; refused if they differ from their defaults without it."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """Mismatches with the rest of the spec, each reported at the component's place."""
        yield from ()


class Norm(Part):
    """A normalisation over the last axis."""

    TIMED: ClassVar[bool] = False
    """Whether its parameters depend on the time."""
    CENTRED: ClassVar[bool] = True
    """Whether it subtracts the mean."""

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square, whose side `grid` it is then applied with."""
        return False

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var, t: Var | None = None, grid: Any = None) -> Var:
        """x [B, ..., D] normalised. The time t f32[B, 1] is for those that are `TIMED`, of x [B, T, D]."""


class TokenNorm(Norm):
    """A norm of each token alone, which works on any part of a sequence and on any axis of vectors."""


class Mixer(Part):
    """Mixes tokens: x [B, T, D] -> [B, T, D]. `static` are the sizes its emitted class is constructed with."""

    @property
    @abstractmethod
    def head_count(self) -> int:
        """Heads that `dim` is divided among; 1 if it has none."""

    @property
    def own_head_size(self) -> bool:
        """Whether heads have a width of their own, which not every network can handle."""
        return False

    def head_size(self, width: int) -> int:
        """Channels of a head, of tokens of this width."""
        return width // self.head_count

    @property
    def head_multiple(self) -> int:
        """What the channels of a head must be a multiple of."""
        return 1

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square, whose side `grid` it is then applied with."""
        return False

    @property
    def rectangular(self) -> bool:
        """Whether tokens may have more or fewer columns than rows, of which `grid` is the number; if `spatial`."""
        return not self.spatial

    @property
    def ordered(self) -> bool:
        """Whether a token sees only itself and those before it."""
        return False

    @property
    def first_seen(self) -> int:
        """How many of the first tokens all see, if it is `ordered`, those before them too."""
        return 0

    @property
    def normalised(self) -> bool:
        """Whether blocks normalise what it mixes."""
        return True

    @property
    def takes_vector(self) -> bool:
        """Whether `apply` may be given a vector c."""
        return False

    @property
    def places_tokens(self) -> bool:
        """Whether it tells tokens apart by their places, so that they need no positions."""
        return False

    @property
    def generates(self) -> bool:
        """Whether weights inside depend on the condition, which `apply` is then given as `told`."""
        return False

    @property
    def separates(self) -> bool:
        """Whether it may be applied with `front`: how many tokens in front have weights of their own."""
        return False

    @property
    def parted(self) -> bool:
        """Whether it must be applied with `lead`: how many tokens in front are a part of their own."""
        return False

    @property
    def routes(self) -> bool:
        """Whether `told` chooses experts, so that it may be another vector than the condition."""
        return False

    @property
    def whole_only(self) -> bool:
        """Whether only `apply` is what it says, not `extend` and `decode`."""
        return False

    @property
    def recalls(self) -> bool:
        """Whether tokens that `extend` takes may stand anywhere among the cached ones, not only behind them."""
        return False

    @property
    def branches(self) -> int:
        """How many summands `apply_branches` returns."""
        return 1

    def problems_of_grid(self, grid: int) -> Iterator[Problem]:
        """What is wrong with a square of tokens of this side."""
        yield from ()

    @abstractmethod
    def static(self, dim: int) -> dict[str, Any]: ...

    def own(self, dim: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a block's sizes that it is applied with."""
        more = *(("grid",) if self.spatial else ()), *(("front",) if "front" in sizes else ())
        more = *more, *(("lead",) if self.parted else ())
        return {name: sizes[name] for name in (*self.static(int(dim)), *more)}

    @abstractmethod
    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        mask: Var | None = None,
        c: Var | None = None,
        **static: Any,
    ) -> Var:
        """`mask` bool[B or 1, 1, T or 1, T] is true for the tokens that may be seen; None: all. Only a `CachedMixer` is
        given one. `c` [B, E] is the condition. If weights depend on the condition, `told` is that, too.
        """

    def apply_branches(
        self, b: Builder, name: str, x: Var, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, ...]:
        """The summands of `apply`, for blocks that gate each by itself."""
        return (self.apply(b, name, x, rotary, init, **static),)


class PlainMixer(Mixer):
    """A mixer that reads nothing but the tokens."""

    @abstractmethod
    def body(self, init: str) -> BlockBody:
        """What it does to tokens x."""

    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        mask: Var | None = None,
        c: Var | None = None,
        **static: Any,
    ) -> Var:
        return b.sub(name, self.body(init), x, **static)  # type: ignore[no-any-return]


class CachedMixer(Mixer):
    """A mixer that heeds `mask` and takes tokens against keys and values of others."""

    @property
    def looks(self) -> bool:
        """Whether tokens may be mixed with a context too, by `look`."""
        return False

    @abstractmethod
    def look(self, b: Builder, name: str, x: Var, context: tuple[Var, ...], init: str, dim: int, **static: Any) -> Var:
        """x [B, T, D] mixed with itself and a context [B, L, E], behind which may be a mask bool[B, L]."""

    @abstractmethod
    def decode(
        self, b: Builder, name: str, x: Var, state: DecodeState, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, Var, Var]:
        """One token x [B, 1, D] against a cache: (output, new key cache, new value cache). For causal mixers."""

    @abstractmethod
    def extend(
        self, b: Builder, name: str, x: Var, chunk: Chunk, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, Var, Var]:
        """Tokens x [B, N, D] against a cache: (output, keys and values [B, H_kv, S + N, d] with those of x behind)."""


class FeedForward(Part):
    """Works on each token alone: x [B, T, D] -> [B, T, D]."""

    GATED: ClassVar[bool] = False
    """Whether a layer of its own gates what the last one takes."""

    @property
    def takes_vector(self) -> bool:
        """Whether `apply` is given the condition c [B, E] too."""
        return False

    @property
    def routes(self) -> bool:
        """Whether that chooses experts, so that it may be another vector."""
        return self.takes_vector

    @property
    def parted(self) -> bool:
        """Whether it must be applied with `lead`: how many tokens in front are a part of their own."""
        return False

    @abstractmethod
    def static(self, dim: int) -> dict[str, Any]: ...

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var: ...


class ScoreKernel(Part):
    """A kernel of the distance between tokens, which changes the scores of attention."""

    @abstractmethod
    def terms(self, b: Builder, distance: Var, heads: int) -> tuple[Var | None, Var | None]:
        """Factor and summand of the scores, f32[1, H, T_q, T] each, or None, of distances f32[1, T_q, T] (>= 0)."""

    @property
    def multiplies(self) -> bool:
        """Whether there is a factor."""
        return False

    def on(self, b: Builder, scores: Var, distance: Var) -> Var:
        """Scores f32[B, H, T_q, T] with the kernel of the distances."""
        factor, summand = self.terms(b, distance, scores.shape[1])
        scores = scores if factor is None else b.mul(scores, factor, out="scores")
        return scores if summand is None else b.add(scores, summand, out="scores")


class Positions(Part):
    """Positions of tokens: an embedding added to the input, or rotary tables for every attention.

    `GRIDDED`: positions are computed from rows and columns of a square grid.
    """

    GRIDDED: ClassVar[bool] = True
    ROTARY: ClassVar[bool] = False
    """Whether it is tables for attention, and adds nothing to the input."""
    FRAMES: ClassVar[bool] = False  # true if it has tables for frames, and for grids that are not square

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        """What is wrong with attention heads of so many channels, for which it has tables."""
        yield from ()

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        return x

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        """(cos, sin), each f32[prefix + grid * grid, head_dim / 2] and called after `name`, or nothing."""
        return ()

    def rotary_of_frames(self, b: Builder, head_dim: int, grid: Any, prefix: int, name: str) -> tuple[Var, ...]:
        return ()  # the same for a grid (frames, rows, columns), with FRAMES


Told = Literal["vector", "time"] | None
"""What a network tells its blocks: an embedding f32[B, E], the time f32[B, 1], or nothing."""


class BlockCondition(Part):
    """How the condition enters a block; composes a block from its parts."""

    TAKES: ClassVar[Told] = "vector"
    """What blocks take behind x: the embedded condition c [B, E], the time t [B, 1], or nothing."""
    TELLS_MIXER: ClassVar[bool] = False
    """Whether a mixer that `generates` weights from the condition is given it."""
    THROUGH_MIXER: ClassVar[bool] = False
    """Whether the mixer takes c, rather than the block around it."""
    TELLS_FEED_FORWARD: ClassVar[bool] = False
    """Whether a feed-forward that takes c is given it."""

    @property
    def takes_tokens(self) -> bool:
        """Whether blocks attend to tokens of conditions [B, L, E], and the mask of those that count, behind c."""
        return False

    @property
    def takes_any_width(self) -> bool:
        """Whether these tokens may be of another width E than the network's."""
        return False

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square, whose side `grid` blocks are then built with."""
        return False

    @property
    def separates(self) -> bool:
        """Whether tokens in front have weights of their own; blocks are then built with `front`, how many they are."""
        return False

    @abstractmethod
    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody: ...

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        """What all blocks are given of the condition c [B, D]."""
        return c

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        """Shift and scale [B, 1, D] of the last norm of a network."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * width, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * width), out="modulation")
        shift, scale = b.split(modulation, axis=2, sizes=(width, width), out="shift scale")
        return shift, scale


class CachedCondition(BlockCondition):
    """A condition whose blocks may also hide tokens from each other, or take them in chunks against a cache."""

    @abstractmethod
    def masked_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        """The same block, behind what it is told a mask of the tokens that may be seen, bool[B or 1, 1, T or 1, T]."""

    @abstractmethod
    def extend_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        """The same block for a chunk of tokens: takes keys, values and, if `masked`, a mask behind what it is told.

        Returns x, then the cache grown by the keys and values of x; see `Chunk`.
        """

    @abstractmethod
    def begin_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        """The same for the first chunk, which has no cache yet."""
