"""PixArt's transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.blocks.conditions.adaln_single import AdalnSingle
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.blocks.positions.sincos_2d_table import Sincos2dTable
from latentc.components.conditions.features import Features
from latentc.components.conditions.timestep import Timestep
from latentc.components.networks.patch_transformer import PatchTransformer
from latentc.components.objective import Objective
from latentc.interchange.diffusers.equivalent import Config, Data, Model, asked, given_null

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

GUIDANCE = 4.5
"""The guidance scale that the pipelines have by default; it guides all channels."""
LENGTH = 120
"""Tokens of a caption in `PixArtAlphaPipeline`; the transformer takes any number."""
EPS = 1e-6
_TRAINED = 64
"""Side of the latents whose positions are whole numbers."""


class PixArtTransformer2DModel(Model):
    """The transformer of `PixArtAlphaPipeline` and `PixArtSigmaPipeline`."""

    NAMES = ("PixArtTransformer2DModel",)
    SPEC = "pixart"
    ADAPTED = ("bias", "qkv_bias", "kv_heads")
    DEFAULTS: ClassVar[Data] = {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "cross_attention_dim": 1152,
        "attention_bias": True,
        "sample_size": 128,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "interpolation_scale": None,
        "use_additional_conditions": None,
        "caption_channels": None,
        "attention_type": "default",
    }
    OF_TRANSFORMER_2D: ClassVar[Data] = {
        "double_self_attention": False,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "use_linear_projection": False,
    }
    """Keys of `Transformer2DModel`, under which PixArt was published before it had a class of its own."""

    def config_of(self, given: Mapping[str, Any]) -> Config:
        usual = self.OF_TRANSFORMER_2D
        return super().config_of({k: v for k, v in given.items() if k not in usual or v != usual[k]})

    def changes(self, config: Config) -> Data:
        config.must("norm_type", "ada_norm_single", why="PixArt has ada_norm_single")
        config.must("norm_elementwise_affine", False, why="the norms of PixArt have no weights of their own")
        config.must("norm_eps", EPS, why=f"the last norm has {EPS:g}")
        config.must("attention_bias", True, why="the attention to captions has biases")
        config.must("attention_type", "default")
        config.unused("norm_num_groups", "upcast_attention", "num_embeds_ada_norm")
        heads, channels = config.whole("num_attention_heads"), config.whole("in_channels")
        side, patch = config.whole("sample_size"), config.whole("patch_size")
        width, dropout = heads * config.whole("attention_head_dim"), config.number("dropout", 0.0)
        config.must("cross_attention_dim", width, why="blocks attend to captions of the width of the network")
        if config["use_additional_conditions"] or (config["use_additional_conditions"] is None and side == 128):
            why = "the network also takes resolution and aspect ratio, which latentc has no condition for"
            config.refuse("use_additional_conditions", why)
        out = config["out_channels"]
        if out not in (None, channels, 2 * channels):
            config.refuse(
                "out_channels", f"a network of {channels} channels predicts {channels} or {2 * channels} channels"
            )
        closer = max(side // _TRAINED, 1)
        if config["interpolation_scale"] is not None:
            closer = config.whole("interpolation_scale")
        extent = {"extent": side // patch / closer} if closer != 1 else {}
        return {
            "data": {"shape": [channels, side, side], "fields": given_null("caption", LENGTH, _features(config))},
            "backbone": {
                "width": width,
                "depth": config.whole("num_layers"),
                "patch": patch,
                "positions": {"kind": "sincos_2d_table" if extent else "sincos_2d", "stored": False, **extent},
                "block": {
                    "mixer": {"heads": heads, "dropout": dropout},
                    "feed_forward": {
                        "approximate": config.choice("activation_fn", {"gelu-approximate": "tanh", "gelu": "none"}),
                        "hidden_dropout": dropout,
                    },
                },
            },
            "conditioning": {"caption": {"null_embedding": "given"}},
            "objective": {"variance": "learned_range" if out == 2 * channels else "fixed_small"},
            "sampler": {"guidance": {"scale": GUIDANCE, "channels": None}},
        }

    def config(self, spec: Spec) -> Data:
        net, time, caption = spec.networks["main"], spec.time, spec.conditions.get("caption")
        asked(isinstance(net, PatchTransformer), f"its network is `{net.kind}`, not the transformer of PixArt")
        assert isinstance(net, PatchTransformer) and spec.data.shape is not None
        mixer, feed_forward, norm, condition = net.block.parts()
        asked(type(condition) is AdalnSingle, f"its network is conditioned by `{condition.kind}`, not adaln_single")
        asked(type(time) is Timestep, "its network does not take the time as sinusoids of a timestep")
        asked(
            list(net.takes(spec)) == ["caption"] and isinstance(caption, Features) and caption.projection == "mlp",
            "PixArt has one condition, features of a caption through two layers",
        )
        assert isinstance(caption, Features)
        asked(not caption.learns_null, "its features for no caption are weights, which the pipelines do not have")
        asked(caption.padding == "masked", "PixArt hides invalid features of captions from attention")
        asked(type(mixer) is Attention, f"its tokens are mixed by `{mixer.kind}`, not attention")
        asked(isinstance(feed_forward, GeluMlp), f"its feed-forward layer is `{feed_forward.kind}`, not gelu_mlp")
        asked(isinstance(norm, LayerNorm), f"its norms are `{norm.kind}`, not layer_norm")
        asked(isinstance(net.positions, Sincos2d) and not net.positions.stored, "its positions are not computed")
        asked(net.unused_channels == 0, "it computes output channels and then drops them")
        asked(isinstance(spec.objective, Objective), "it has no objective, so what the network predicts is unknown")
        assert isinstance(mixer, Attention) and isinstance(feed_forward, GeluMlp) and isinstance(norm, LayerNorm)
        assert isinstance(spec.objective, Objective)
        channels, side, _ = spec.data.shape
        closer = 1.0
        if isinstance(net.positions, Sincos2dTable) and net.positions.extent is not None:
            closer = side // net.patch / net.positions.extent
        asked(closer == int(closer), "its positions are not a whole number of times closer than those of DiT")
        return {
            **self.DEFAULTS,
            "num_attention_heads": mixer.heads,
            "attention_head_dim": net.width // mixer.heads,
            "in_channels": channels,
            "out_channels": spec.objective.out_channels(channels),
            "num_layers": net.depth,
            "dropout": mixer.dropout,
            "cross_attention_dim": net.width,
            "sample_size": side,
            "patch_size": net.patch,
            "activation_fn": {"tanh": "gelu-approximate", "none": "gelu"}[feed_forward.approximate],
            "norm_eps": norm.eps,
            "interpolation_scale": int(closer),
            "use_additional_conditions": False,
            "caption_channels": caption.shape("caption", spec)[-1],
        }


def _features(config: Config) -> int:
    """Channels of the features of captions."""
    if config["caption_channels"] is None:
        config.refuse("caption_channels", "features of captions are projected to the width of the network")
        return 1
    return config.whole("caption_channels")


MODELS = (PixArtTransformer2DModel(),)
