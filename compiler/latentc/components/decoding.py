"""The forms in which blocks and mixers process tokens, and the values that come with them.

Symbols: B batch, T tokens, N tokens at once, S tokens in the cache, D width, E size of the condition, H_kv heads of
keys and values, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from latentc.ir.builder import Var

UNSEEN = -3e4
"""Score of a hidden token: its softmax is 0, and it fits in half precision."""

_OPERANDS: Mapping[str, tuple[str, ...]] = {
    "forward": ("mask",),
    "begin": ("mask",),
    "extend": ("keys", "values", "mask"),
    "decode": ("position", "mask", "keys", "values", "temperature"),
}


@dataclass(frozen=True)
class BlockForm:
    """A method of blocks and mixers on tokens x f32[B, N, D].

    `forward` processes a whole sequence. The others also return the keys and values of all tokens so far, f32[B, H_kv,
    S, d] each: `begin` those of the first tokens, `extend` those in its cache followed by those of x, and `decode` its
    cache of all T tokens with those of x from `position` on.
    """

    method: Literal["forward", "begin", "extend", "decode"] = "forward"
    masked: bool = False
    """Whether it takes a mask, bool[B or 1, 1, N or 1, T], true for visible tokens; `decode` always does."""
    plain: bool = False
    """Of a method with a cache: whether `forward` of the same class takes no mask."""
    tempered: bool = False
    """Whether `decode` takes a temperature f32[B], which divides the scores."""

    @property
    def cached(self) -> bool:
        """Whether it returns keys and values."""
        return self.method != "forward"

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of its operands after x."""
        given = {"mask": self.masked or self.method == "decode", "temperature": self.tempered}
        return tuple(name for name in _OPERANDS[self.method] if given.get(name, True))

    def cls(self, name: str) -> str:
        """The emitted class: `name`, with a prefix if its `forward` takes a mask."""
        masked = not self.plain if self.cached else self.masked
        return f"Masked{name}" if masked else name


FORWARD, MASKED = BlockForm(), BlockForm(masked=True)
BEGIN, EXTEND = BlockForm("begin"), BlockForm("extend")
DECODE = BlockForm("decode", plain=True)


@dataclass(frozen=True)
class Given:
    """Inputs of a block or mixer beside its tokens: the operands of `form` by name, rotary tables and the condition."""

    form: BlockForm = FORWARD
    values: Mapping[str, Var] = field(default_factory=dict)
    rotary: tuple[Var, ...] = ()
    c: Var | None = None
    """The condition f32[B, E], if the block passes it on."""
    router: Var | None = None
    """The vector f32[B, E] that chooses experts; None: the condition does."""
    context: Sequence[Var] = ()
    """Tokens of conditions f32[B, L, E] and the mask bool[B, L] of those that count, if any."""

    @property
    def mask(self) -> Var | None:
        return self.values.get("mask")

    @property
    def operands(self) -> tuple[Var, ...]:
        """The operands of `form`, in its order."""
        return tuple(self.values[name] for name in self.form.operands)
