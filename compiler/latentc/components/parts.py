"""Base classes of the parts that networks are composed from.

Symbols: B batch, T tokens, D (`dim`) width, H heads.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from latentc.components import Component
from latentc.components.decoding import FORWARD, BlockForm, Given
from latentc.components.layers import INITS, linear, mp_linear
from latentc.ir.builder import BlockBody, Builder, Var
from latentc.ir.types import f32

if TYPE_CHECKING:
    from latentc.spec.schema import Spec as Spec
else:
    Spec = Any  # `spec` imports the components, so they can only annotate with its type

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

    Lowering turns it into a diagnostic at `path` below the component, or below `part`, one of the component's parts.
    """

    def __init__(
        self, message: str, help: str | None = None, path: tuple[str | int, ...] = (), part: Component | None = None
    ) -> None:
        super().__init__(message)
        self.problem, self.part = Problem(path, message, help), part


def a_divisor(*sizes: int) -> str:
    """The remedy for a number that must divide all sizes."""
    common = math.gcd(*sizes)
    return f"choose one of {', '.join(str(d) for d in range(1, common + 1) if common % d == 0)}"


def under(*path: str | int, problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems of a part of a component, which is at `path` in it."""
    for problem in problems:
        yield replace(problem, path=(*path, *problem.path))


Applies = Mapping[str, tuple[str, tuple[Any, ...] | None]]
"""{an option: (another, the values of it with which the first applies)}; None: any but null and 0."""


class Part(Component):
    """A component that may refuse the spec that it is part of."""

    APPLIES: ClassVar[Applies] = {}
    """Options that apply only together with another; refused if they differ from their defaults without it."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """Mismatches with the rest of the spec, each reported at the component's place."""
        yield from ()


class Norm(Part):
    """A normalisation over the last axis."""

    CENTRED: ClassVar[bool] = True
    """Whether it subtracts the mean."""

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square; blocks are then built with `grid`, its side."""
        return False

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var) -> Var:
        """x [B, ..., D] normalised. Refusal: it depends on more than x."""


class TokenNorm(Norm):
    """A norm of each token alone, which works on any part of a sequence and on any axis of vectors."""


class Mixer(Part):
    """Mixes tokens: x [B, T, D] -> [B, T, D]. `static` are the sizes its emitted class is constructed with."""

    @property
    def head_count(self) -> int:
        """Number of heads that the width is divided among; 1 if it has none."""
        return 1

    def head_size(self, width: int) -> int:
        """Channels of a head at this width."""
        return width // self.head_count

    @property
    def needs(self) -> tuple[str, ...]:
        """Sizes of the sequence that `apply` takes: `grid`, the columns of a grid of tokens; `front`, the number of
        leading tokens with weights of their own, if there are any; `lead`, that of those with attributes.
        """
        return ()

    @property
    def spatial(self) -> bool:
        """Whether tokens must form a grid."""
        return "grid" in self.needs

    @property
    def ordered(self) -> bool:
        """Whether a token sees only itself and those before it."""
        return False

    def static(self, dim: int) -> dict[str, Any]:
        return {}

    def own(self, dim: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes of a block that `apply` takes. Refusal: leading tokens with weights of their own, not supported."""
        if "front" in sizes and "front" not in self.needs:
            message = f"this `{self.kind}` has the same weights for all tokens"
            raise Refusal(message, "use `{kind: attention}`, or leave out `front` of the condition", part=self)
        more = (name for name in self.needs if name in sizes or name != "front")
        return {name: size_of(self, name, sizes) for name in (*self.static(int(dim)), *more)}

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        """The mixed tokens; then, if the form of `given` has a cache, its keys and values with those of x.

        Refusal: a form that it does not support.
        """


class PlainMixer(Mixer):
    """A mixer that reads nothing but the tokens of a whole sequence."""

    @abstractmethod
    def body(self, init: str) -> BlockBody:
        """The module of tokens x."""

    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        whole_sequences(self, given)
        return (b.sub(name, self.body(init), x, **static),)


def whole_sequences(mixer: Mixer, given: Given) -> None:
    """Refusal of a mask or a cache."""
    if given.form.masked or given.form.cached:
        message = f"this network masks tokens or keeps a cache, but `{mixer.kind}` processes whole sequences"
        raise Refusal(message, "use `{kind: attention}`", part=mixer)


def condition_of(mixer: Mixer, given: Given) -> Var:
    """The condition f32[B, E]. Refusal: the block does not pass it to the mixer."""
    if given.c is None:
        message = f"`{mixer.kind}` depends on the condition, but these blocks do not pass it to the mixer"
        raise Refusal(message, "use the condition `{kind: adaln_zero}`, or another mixer", part=mixer)
    return given.c


def square_side(part: Part, tokens: Any, grid: Any) -> Any:
    """The side of a square of so many tokens, whose `grid` has so many columns. Refusal: it is no square."""
    if int(tokens) != int(grid) ** 2:
        message = f"`{part.kind}` needs a square of tokens, but this network has {int(tokens)} in rows of {int(grid)}"
        raise Refusal(message, "use another, or square inputs", part=part)
    return grid


def size_of(part: Part, name: str, sizes: Mapping[str, Any]) -> Any:
    """A size of a block. Refusal: `lead`, in a network without leading tokens."""
    if name == "lead" and name not in sizes:
        message = "only blocks of a `masked_autoencoder` have leading tokens, with attributes of their own"
        raise Refusal(message, "give one list of attributes", part=part)
    return sizes[name]


class FeedForward(Part):
    """Works on each token alone: x [B, T, D] -> [B, T, D]."""

    GATED: ClassVar[bool] = False
    """Whether a gate layer multiplies the input of the last layer."""

    @property
    def takes_vector(self) -> bool:
        """Whether `apply` takes c f32[B, E], the condition or another vector that chooses experts."""
        return False

    @property
    def parted(self) -> bool:
        """Whether `apply` takes `lead`, the number of leading tokens with attributes of their own."""
        return False

    @property
    def spatial(self) -> bool:
        """Whether tokens must be a square; `apply` then takes `grid`, its side."""
        return False

    @abstractmethod
    def static(self, dim: int) -> dict[str, Any]: ...

    @abstractmethod
    def apply(self, b: Builder, name: str, x: Var, init: str, **static: Any) -> Var: ...


class Positions(Part):
    """Positions of tokens: an embedding added to the input, or rotary tables for every attention.

    `GRIDDED`: positions are computed from rows and columns of a square grid.
    """

    GRIDDED: ClassVar[bool] = True
    ROTARY: ClassVar[bool] = False
    """Whether it is tables for attention, and adds nothing to the input."""
    FRAMES: ClassVar[bool] = False  # true if it has tables for frames, and for grids that are not square

    def problems_of_head(self, channels: int) -> Iterator[Problem]:
        """Problems of rotary tables for heads of so many channels."""
        yield from ()

    def add(self, b: Builder, x: Var, dim: int, grid: int) -> Var:
        return x

    def rotary(self, b: Builder, head_dim: int, grid: int, prefix: int, name: str = "freqs") -> tuple[Var, ...]:
        """(cos, sin), each f32[prefix + grid * grid, head_dim / 2] and called after `name`, or nothing."""
        return ()

    def rotary_of_frames(self, b: Builder, head_dim: int, grid: Any, prefix: int, name: str) -> tuple[Var, ...]:
        return ()  # the same for a grid (frames, rows, columns), with FRAMES


BlockInput = str | None
"""Input of blocks from the network, in words: "a vector", which is an embedding f32[B, E], another one, or nothing."""


class BlockCondition(Part):
    """How the condition enters a block; composes a block from its parts."""

    TAKES: ClassVar[BlockInput] = "a vector"
    """First operand of blocks after x: the embedded condition c [B, E], the time t [B, 1], or none."""
    OPERANDS: ClassVar[tuple[str, ...]] = ()
    """Names of the operands between x and those of the form."""
    SHAPES: ClassVar[Mapping[str, str]] = {}
    """Their declared shapes."""

    @property
    def takes_tokens(self) -> bool:
        """Whether blocks attend to tokens of conditions [B, L, E], and the mask of those that count."""
        return False

    @property
    def takes_any_width(self) -> bool:
        """Whether these tokens may be of another width E than the network's."""
        return False

    @property
    def spatial(self) -> bool:
        """Whether tokens must form a grid; blocks are then built with `grid`, its side or number of columns."""
        return False

    @property
    def separates(self) -> bool:
        """Whether leading tokens have weights of their own; blocks are then built with `front`, their number."""
        return False

    @abstractmethod
    def names(self, mixer: Mixer, masked: bool) -> tuple[str, str]:
        """Name and docstring of the emitted class of blocks, without or with a mask."""

    @abstractmethod
    def branches(
        self, b: Builder, x: Var, given: Given, mix: Mix, parts: BlockParts, dim: int, static: Mapping[str, Any]
    ) -> Var:
        """Tokens x [B, T, D] with all branches added; `mix` applies the mixer, module `attn`, whatever the form."""

    def block(
        self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, form: BlockForm = FORWARD
    ) -> BlockBody:
        """A block's method of this form: of x, `OPERANDS`, those of the form, and others.

        These are the vector that chooses experts if `router`, `context` operands of conditions, and rotary tables.
        A form with a cache returns x, keys and values.
        """
        return _block(self, BlockParts(mixer, feed_forward, norm, init), form)

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        """The operand of all blocks for the condition c [B, D]."""
        return c

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        """Shift and scale [B, 1, D] of the last norm of a network."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * width, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 2 * width), out="modulation")
        shift, scale = b.split(modulation, axis=2, sizes=(width, width), out="shift scale")
        return shift, scale


class BlockParts(NamedTuple):
    """The parts of a block beside its condition."""

    mixer: Mixer
    feed_forward: FeedForward
    norm: Norm
    init: str

    def fed(
        self,
        b: Builder,
        x: Var,
        dim: int,
        static: Mapping[str, Any],
        name: str = "mlp",
        given: Given | None = None,
    ) -> Var:
        """The feed-forward layer of x [B, T, D]. Refusal: it depends on the condition, which is not `given`."""
        layer = self.feed_forward
        more = (*(("lead",) if layer.parted else ()), *(("grid",) if layer.spatial else ()))
        own = {key: size_of(layer, key, static) for key in (*layer.static(dim), *more)}
        if layer.takes_vector:
            if given is None or given.c is None:
                message = f"`{layer.kind}` depends on the condition, but these blocks do not pass it on"
                raise Refusal(message, "use the condition `{kind: adaln_zero}`", part=layer)
            own["c"] = given.c if given.router is None else given.router
        return layer.apply(b, name, x, self.init, dim=dim, **own)


Mix = Callable[[Var], Var]
"""h f32[B, N, D] -> its tokens, mixed."""

_DOCS = {
    "begin": "The block for the first tokens; also returns their keys and values.",
    "extend": "The block for the next tokens; also returns the cached keys and values with theirs appended.",
    "decode": "The block for one token against the cached keys and values.",
}


@cache
def _block(condition: BlockCondition, parts: BlockParts, form: BlockForm) -> BlockBody:
    names = ("x", *condition.OPERANDS, *form.operands)
    mixer = parts.mixer

    def block(b: Builder, *operands: Var, dim: int, context: int = 0, router: int = 0, **static: Any) -> Any:
        values, rest = dict(zip(names, operands, strict=False)), operands[len(names) :]
        chooses, rest = rest[:router], rest[router:]
        first = chooses[0] if chooses else None
        given = Given(form, values, rest[context:], values.get("c"), first, rest[:context])
        cache: list[Var] = []

        def mix(h: Var) -> Var:
            h, *cache[:] = mixer.apply(b, "attn", h, parts.init, given, dim=dim, **mixer.own(dim, static))
            return h

        x = condition.branches(b, values["x"], given, mix, parts, dim, static)
        return (x, *cache) if form.cached else x

    cls, block.__doc__ = condition.names(mixer, form.masked)
    if form.cached:
        cls, _ = condition.names(mixer, not form.plain)
        block.__doc__ = _DOCS[form.method]
    return BlockBody(block, cls, form.method, condition.SHAPES, names)
