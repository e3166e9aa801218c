"""A language model that can be trained on rows of texts.

Symbols: B batch, T tokens of a sample, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.backbone import add_method, asks
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks.language_model import LanguageModel, embedded, features_of, logits_of
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, i64, module_class
from latentc.ir.types import B


class RowLanguageModel(LanguageModel):
    """`language_model`, also over rows of texts that contain their classes (Kumar et al. 2020, arXiv:2003.02245).

    `read`, if the objective asks for it: tokens i64[B, T - 1] -> logits f32[B, T - 1, V] of the tokens after each of
    them, which nothing precedes.
    """

    kind: Literal["row_language_model"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**LanguageModel.EXAMPLE, "kind": "row_language_model"}

    PROVIDES: ClassVar[frozenset[Capability]] = LanguageModel.PROVIDES | {"continue_rows"}

    def provides(self, spec: Spec) -> frozenset[Capability]:
        # Training on rows would not train a class embedding.
        names = self.class_tokens is not None or all(entry.form != "tokens" for entry in self.entries(spec))
        return super().provides(spec) - (frozenset() if names else {"continue_rows"})

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        network = super().build(mb, name, spec, out_channels)
        if not asks(spec, name, "continue_rows"):
            return network
        static = self.sizes(spec, self.before(self.entries(spec), spec))
        assert spec.data.tokens is not None
        state = Port("tokens", i64(B, spec.data.tokens.length - 1), "state", static["vocabulary"])
        read = add_method(mb, name, "read", _read(self), (state,), static, ("logits",))
        return replace(network, methods={**network.methods, "read": read})


@cache
def _read(config: LanguageModel) -> BlockBody:
    @module_class("LanguageModel", "read")
    def read(b: Builder, tokens: Var, **static: Any) -> Var:
        """Next-token logits at every position."""
        vocabulary, width = static["vocabulary"], static["width"]
        x = embedded(b, tokens, vocabulary, width)
        known = b.full(x, shape=(int(tokens.shape[1]),), value=1.0, dtype="f32", out="known")
        return logits_of(config, b, features_of(config, b, x, known, width, static), vocabulary, width)

    return read
