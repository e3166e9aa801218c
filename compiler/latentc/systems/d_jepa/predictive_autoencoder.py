"""The masked autoencoder of D-JEPA, which predicts features of hidden tokens.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens, P tokens in front of the
sample's: the buffer, and those of conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry
from latentc.components.contract import Method, Port
from latentc.components.networks._masked_parts import MaskedParts, embedded, joined, keys_of, position
from latentc.components.networks.masked_autoencoder import MaskedAutoencoder
from latentc.components.parts import Positions, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class FeaturePredictor(Closed):
    """Two linear layers with GELU between them."""

    ratio: float = Field(4.0, gt=0, le=64, description="hidden width as a multiple of the width")
    norm: bool = Field(True, description="layer norm before the second layer")


class PredictiveAutoencoder(MaskedAutoencoder):
    """`masked_autoencoder` with learned buffer tokens and a predictor (D-JEPA, Chen et al. 2024, arXiv:2410.03755).

    `targets` encodes a sample with nothing hidden as f32[B, T, D], and `predict` predicts these from features f32[B, T,
    D]. With `positions`, it is D-JEPA·T2I's (arXiv:2411.14808).
    """

    kind: Literal["predictive_autoencoder"]  # type: ignore[assignment]
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None,
        description="rotary positions in every attention, for a square of tokens; null: learned positions of the "
        "sample's tokens, in encoder and decoder",
    )
    predictor: FeaturePredictor = Field(
        FeaturePredictor(), description="predicts an averaged encoder's features of the hidden tokens, for the loss"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**MaskedAutoencoder.EXAMPLE, "kind": "predictive_autoencoder"}

    PROVIDES: ClassVar[frozenset[Capability]] = MaskedAutoencoder.PROVIDES | {"predicted_features"}
    RECALLS: ClassVar[bool] = False

    @property
    def fixed(self) -> tuple[str, ...]:
        return (*super().fixed, "grid")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.decoder is not None:
            yield Problem(
                ("decoder",), "the decoder must be like the encoder, whose features are predicted", "leave it out"
            )
        if self.positions is not None:
            yield from self._problems_of_rotary(spec)

    def _problems_of_buffer(self, spec: Spec) -> Iterator[Problem]:
        return iter(())  # without vectors, its tokens are learned

    def _problems_of_recall(self, spec: Spec) -> Iterator[Problem]:
        message = f"the sampler reuses keys and values, which a {self.kind} does not return"
        yield Problem((), message, "use a sampler without `reuse`")

    def _problems_of_rotary(self, spec: Spec) -> Iterator[Problem]:
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        if not (isinstance(self.positions, Positions) and self.positions.ROTARY):
            message = f"`{self.positions.kind}` is added to the input, but `positions` rotate queries and keys"  # type: ignore[union-attr]
            yield Problem(("positions",), message, "use `{kind: rope_2d}` or `{kind: rope_prefix}`, or leave it out")
        shape = spec.data.shape
        if shape is not None and len(shape) == 3 and shape[1] != shape[2]:
            yield Problem(("positions",), f"rotary positions need a square, not {shape[1]} by {shape[2]}")

    def parts(self, entries: tuple[Entry, ...]) -> PredictiveParts:
        return PredictiveParts(self, entries)

    def sizes(self, spec: Spec) -> dict[str, Any]:
        grid = {} if self.positions is None else {"grid": round(self.tokens(spec)[0] ** 0.5)}
        return {**super().sizes(spec), **grid}

    def shortens(self) -> bool:
        return self.positions is None  # rotary tables cover all tokens in order

    def further(
        self, mb: ModuleBuilder, name: str, spec: Spec, ports: tuple[Port, ...], static: dict[str, Any]
    ) -> dict[str, Method]:
        whole, z = (ports[0], *ports[2:]), Port("z", f32(B, ports[0].type.shape[1], self.width), "features")
        return {
            "targets": add_method(mb, name, "targets", targets(self, self.entries(spec)), whole, static),
            "predict": add_method(mb, name, "predict", predict(self), (z,), static),
        }


class PredictiveParts(MaskedParts):
    """With learned buffer tokens, and positions of the sample's tokens only, or rotary ones."""

    config: PredictiveAutoencoder

    def in_front(
        self, b: Builder, conditions: tuple[Var, ...], like: Var, width: int, buffer: int, static: Any
    ) -> tuple[Var, Var | None]:
        vectors, sequences = embedded(b, self.entries, conditions, width, static)
        # The norm of the encoder's input amplifies gradients of tokens that are zero.
        start: dict[str, Any] = {} if vectors else {"std": 0.02}
        learned = b.param("buffer_tokens", f32(1, buffer, width), "normal" if start else "zeros", **start)
        return joined(b, [*vectors, learned], sequences, like, buffer)

    def joined(self, b: Builder, c: Var, x: Var, tokens: Any) -> Var:
        x = self.placed(b, "encoder_pos", self.linear(b, "z_proj", x, c.shape[2]))
        return b.concat(c, x, axis=1, out="x")

    def placed(self, b: Builder, name: str, x: Var) -> Var:
        """x [B, T, D] with learned positions, unless they are rotary."""
        return x if self.config.positions is not None else x + position(b, name, x.shape[1], x.shape[2])

    def decoder_placed(self, b: Builder, x: Var, tokens: Any) -> Var:
        if self.config.positions is not None:
            return x
        c, x = b.split(x, axis=1, sizes=(x.shape[1] - tokens, tokens), out="c x")
        return b.concat(c, self.placed(b, "decoder_pos", x), axis=1, out="x")

    def features(self, b: Builder, x: Var, tokens: Any) -> Var:
        return self.of_tokens(b, "decoder_norm", x, tokens)

    def rotary(self, b: Builder, x: Var, static: Any) -> tuple[Var, ...]:
        positions = self.config.positions
        if not isinstance(positions, Positions):
            return ()
        return positions.rotary(b, x.shape[2] // static["heads"], static["grid"], x.shape[1] - static["grid"] ** 2)


@cache
def targets(config: PredictiveAutoencoder, entries: tuple[Entry, ...]) -> BlockBody:
    parts = config.parts(entries)

    @module_class("MaskedAutoencoder", "targets", x="B T=tokens channels")
    def targets(
        b: Builder,
        x: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        known: int | None = None,
        **static: Any,
    ) -> Var:
        """The encoder's features of every token of a sample of which nothing is hidden."""
        c, counted = parts.in_front(b, conditions, x, width, buffer, static)
        prefix = c.shape[1]
        x = parts.normed(b, parts.joined(b, c, x, tokens))
        # A mask that hides nothing, so that the blocks are those of encoders of partly hidden samples.
        visible = b.full(
            x, shape=(tokens if counted is not None else x.shape[1],), value=1.0, dtype="bool", out="every"
        )
        if counted is not None:
            visible = b.concat(counted, visible, axis=1, out="visible")
        sizes, rotary = config.block.own(width, static), parts.rotary(b, x, static)
        x = parts.blocks(b, "encoder", x, prefix, (keys_of(b, visible),), depth, sizes, rotary)
        return parts.of_tokens(b, "encoder_norm", x, tokens)

    return targets


@cache
def predict(config: PredictiveAutoencoder) -> BlockBody:
    @module_class("MaskedAutoencoder", "predict", z="B T=tokens width")
    def predict(b: Builder, z: Var, *, width: int, known: int | None = None, **static: Any) -> Var:
        """Predicts the targets from the features z of a partly hidden sample."""
        return b.sub("predictor", _predictor(config.predictor, config.weights), z, dim=width)

    return predict


@cache
def _predictor(config: FeaturePredictor, init: str) -> BlockBody:
    whole = int(config.ratio) if config.ratio == int(config.ratio) else None

    @module_class("FeaturePredictor", z="B T dim")
    def predictor(b: Builder, z: Var, *, dim: int) -> Var:
        """Two linear layers with GELU between them."""
        hidden = int(dim * config.ratio) if whole is None else whole * dim
        x = b.gelu(dense(b, "fc1", z, hidden, True, init), approximate="none", out="x")
        if config.norm:
            x = LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "norm", x)
        return dense(b, "fc2", x, dim, True, init)

    return predictor
