"""An autoencoder made of two transformers, whose codes are a sequence: LARP's tokenizer of video, and ViTok's.

A file of its own because its encoder and decoder are transformers over patches and queries in one sequence; the
`autoencoder` is convolutional, and its codes are a map.

Symbols: B batch, C channels, F frames, H and W sides of a frame, T patches, N tokens (queries or patches), D width,
Z channels of the latents, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf, Size
from latentc.components.backbone import Backbone, add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck, TableBottleneck
from latentc.components.blocks.planes import plane_tokens
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.first_stage import Codes
from latentc.components.networks._query_methods import methods_of
from latentc.components.networks._query_parts import (
    LatentNorm,
    Place,
    norm_sizes,
    patches_of,
)
from latentc.components.networks._query_problems import problems_of
from latentc.components.parts import Problem, Weights
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class QueryAutoencoder(Backbone):
    """Holistic tokenizer (LARP, Wang et al. 2024, arXiv:2410.21264), or one of patches (ViTok, arXiv:2501.09755).

    Takes x f32[B, C, F, H, W] or f32[B, C, H, W]. The encoder processes N queries together with the patches, and the
    queries' outputs become codes; the decoder processes patch queries together with the codes. Without `tokens`, both
    process only patches, each of which is a token. Latents are f32[B, Z, N]. With `code_sequence`, losses may read them
    as a sequence.
    """

    kind: Literal["query_autoencoder"]
    tokens: int | None = Field(
        1024,
        gt=0,
        le=1_048_576,
        description="number of tokens per sample (N), independent of its size; null: one per patch",
    )
    tokens_by: Literal["queries", "resized", "mixed"] = Field(
        "queries",
        description="how these tokens are formed: queries read the patches; the square of patches is resized by "
        "linear interpolation, and back in the decoder; or a learned matrix mixes them (GIVT's for dense prediction)",
    )
    width: int = Field(gt=0, le=65_536, description="channels of an encoder token (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_width: int | None = Field(None, gt=0, le=65_536, description="channels of a decoder token; null: `width`")
    decoder_depth: int | None = Field(None, gt=0, le=512, description="blocks of the decoder; null: `depth`")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    frames: int = Field(gt=0, le=1_024, description="frames per patch")
    decoder_patch: int | None = Field(None, gt=0, le=1_024, description="side of a decoded patch; null: `patch`")
    decoder_frames: int | None = Field(None, gt=0, le=1_024, description="frames per decoded patch; null: `frames`")
    block: Block = Field(description="the repeated block")
    decoder_block: Block | None = Field(None, description="block of the decoder; null: as `block`")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="type of the codes")
    learned: tuple[Place, ...] = Field(
        ("queries",), max_length=4, description="which positions are learned; the others are sinusoids"
    )
    typed: tuple[Place, ...] = Field((), max_length=4, description="what gets a learned type embedding")
    stored: tuple[Place, ...] = Field(
        (),
        max_length=4,
        description="what has its positions in one table f32[1, T, D] that checkpoints contain; initially sinusoids, "
        "unless `learned`",
    )
    unplaced: tuple[Place, ...] = Field((), max_length=4, description="what gets no positions")
    rotary: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="rotary positions of every attention, along the whole sequence; null: none"
    )
    planes: Literal[3, 4] | None = Field(
        None,
        description="tokens are those of planes: means of the patches over frames, rows and columns (3), or over "
        "each half of the frames, rows and columns (4; Suhail et al. 2024); null: no planes",
    )
    planes_by: Literal["mean", "projection"] = Field(
        "mean",
        description="how the vectors along an axis are reduced to one plane vector: their mean, or a linear map of "
        "all of them",
    )
    planes_as: Literal["joined", "summed"] = Field(
        "joined", description="decoder input per patch: its vectors from all planes, or their sum"
    )
    queries_first: bool = Field(
        False, description="the encoder places queries before the patches instead of after them"
    )
    lengths: tuple[Size, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="numbers of latents that training keeps per sample, drawn uniformly; a learned vector replaces "
        "the remaining ones. null: all",
    )
    encoder_norm: bool = Field(False, description="norm after the encoder's blocks, as after the decoder's")
    final_eps: float = Field(1e-6, gt=0, description="eps of the LayerNorm after the blocks")
    output: Literal["linear", "transposed_conv"] = Field(
        "linear",
        description="bias of the layer that maps tokens to patches: one per value of a patch, or one per channel "
        "(ViTok)",
    )
    latent_norm: LatentNorm | None = Field(
        None,
        description="norm of the bottleneck's input: `layer` over the channels of a token, `layer_whole` over all "
        "tokens; `batch` per channel over batch and tokens, `batch_whole` per channel and token",
    )
    reads: str | None = Field(
        None, description="data field that it encodes, for an `encoded` condition; null: the samples themselves"
    )
    filled_to: int | None = Field(
        None,
        gt=0,
        le=1_024,
        description="frames to which shorter videos are extended as set by `filled_by`; null: the video's own",
    )
    filled_by: Literal["last", "nearest"] = Field(
        "last",
        description="how shorter videos are extended: repeat the last frame, or spread the given frames evenly and "
        "fill with the nearest",
    )
    base: float = Field(
        10000.0, gt=1, le=1e12, description="longest period of the sinusoids of latents and queries, over 2 pi"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode", "code_sequence"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "query_autoencoder",
        "tokens": 4,
        "width": 16,
        "depth": 1,
        "patch": 4,
        "frames": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "qkv_bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "bottleneck": {"kind": "codebook", "size": 16, "channels": 4, "normalize": True, "temperature": 0.03},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "rows")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        rows = self.bottleneck.discrete and isinstance(self.bottleneck, TableBottleneck) and self.bottleneck.numbered
        return self.PROVIDES if rows else self.PROVIDES - {"code_sequence"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of(self, spec)

    def read_shape(self, spec: Spec) -> tuple[int, ...]:
        """The shape of what it reads; zeros if there is none, or none of samples, which `problems` refuses."""
        field = spec.data.fields.get(self.reads or "x")
        return (0, 0, 0) if field is None or len(field.shape) not in (3, 4) else field.shape

    def sample_shape(self, spec: Spec) -> tuple[int, ...]:
        """That shape, with as many frames as patches are of."""
        shape = self.read_shape(spec)
        return shape if len(shape) != 4 or self.filled_to is None else (shape[0], self.filled_to, *shape[2:])

    @property
    def queries(self) -> int | None:
        """Tokens that are queries in the sequences; None: these hold patches alone."""
        return self.tokens if self.tokens_by == "queries" else None

    @property
    def decoded_patch(self) -> tuple[int, int]:
        return self.decoder_patch or self.patch, self.decoder_frames or self.frames

    @property
    def outward_block(self) -> Block:
        return self.decoder_block or self.block

    def token_count(self, spec: Spec) -> int:
        """Tokens of a sample (N)."""
        grid = patches_of(self.sample_shape(spec), self.frames, self.patch)
        if self.planes is not None:
            return plane_tokens(grid, self.planes)
        return self.tokens or math.prod(grid)

    def _sequence(self, of: TensorType) -> TensorType:
        """A type [B, Z, N, 1] of the bottleneck, as [B, Z, N] if it can work on that."""
        return of.with_shape(of.shape[:3]) if self.bottleneck.ANY_RANK else of

    def _latents(self, spec: Spec) -> TensorType:
        """The type of what `decode` is given."""
        return self._sequence(self.bottleneck.decoded_type(self.token_count(spec), 1))

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        of = self.bottleneck.code_type(self.token_count(spec), 1)
        return (Port(self.reads or "x", f32(B, *self.read_shape(spec)), "state"),), self._sequence(of)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self._latents(spec), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        shape = self.sample_shape(spec)
        width, tokens = self.decoder_width or self.width, self.token_count(spec)
        static = {
            "in_channels": shape[0],
            "tokens": tokens,
            "width": self.width,
            "depth": self.depth,
            "decoder_width": width,
            "decoder_depth": self.decoder_depth or self.depth,
            **self.block.static(self.width),
            **{f"decoder_{key}": size for key, size in self.outward_block.static(width).items()},
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": tokens, "columns": 1} if self.bottleneck.discrete else {}),
        }
        x = Port("x", f32(B, *self.read_shape(spec)), "state")
        z = Port("z", self._latents(spec), "state", self.bottleneck.vocabulary)
        noise = [replace(port, type=self._sequence(port.type)) for port in self.bottleneck.noise_ports(tokens, 1)]
        if self.lengths:
            noise.append(Port("kept", f32(B), "noise", distribution="uniform"))
        bodies = methods_of(self, shape[1:])
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[Sequence[Port], tuple[Role, ...]]] = {
            "forward": ([x], plain),
            "encode": ([x], plain),
            "decode": ([z], plain),
            "regularized": ([x, *noise], ("output", "penalty")),
        }
        if asks(spec, name, "code_sequence"):
            sequence = Port("z", f32(B, tokens - 1, self.bottleneck.channels), "features")
            index = Port("index", i64(B, tokens - 1), "token", self.bottleneck.vocabulary)
            wanted |= {
                "regularized_codes": ([x, *noise], ("output", "penalty", "features", "token")),
                "likeness": ([sequence], ("logits",)),
                "vectors": ([index], plain),
            }
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        own = {"frames": self.frames, "moments": self.bottleneck.encoded}
        return Network(name, methods, self.provides(spec), sizes=own | norm_sizes(self.latent_norm, tokens))


__all__ = ["QueryAutoencoder"]
