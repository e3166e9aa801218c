"""DiT's transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.blocks.conditions.adaln_zero import AdalnZero
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.conditions.label import Label, classes_of
from latentc.components.conditions.timestep import Timestep
from latentc.components.networks.patch_transformer import PatchTransformer
from latentc.components.objective import Objective
from latentc.interchange.diffusers.equivalent import Config, Data, Model, asked
from latentc.spec import load_spec

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

GUIDANCE = 4.0
"""The guidance scale that `DiTPipeline` has by default; it guides all channels."""
EPS = 1e-6
"""Of the norms whose eps the class does not let one choose."""


class _Transformer(Model):
    """The transformer of `DiTPipeline`.

    Its time embedding reaches the longest period (`endpoint`), which that of the authors only approaches.
    """

    NAMES = ("DiTTransformer2DModel", "Transformer2DModel")
    ADAPTED = ("bias", "qkv_bias", "kv_heads", "feed_forward_eps")
    NEARLY: ClassVar[dict[str, str]] = {
        **Model.NEARLY,
        "endpoint": "its timestep frequencies differ from the authors', even for the published weights",
    }
    DEFAULTS: ClassVar[Data] = {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": None,
        "num_layers": 28,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "attention_bias": True,
        "sample_size": 32,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-5,
    }
    OF_TRANSFORMER_2D: ClassVar[Data] = {
        "attention_type": "default",
        "caption_channels": None,
        "cross_attention_dim": None,
        "double_self_attention": False,
        "interpolation_scale": None,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "use_additional_conditions": None,
        "use_linear_projection": False,
    }
    """Keys of `Transformer2DModel`, under which DiT was published before it had a class of its own."""

    def config_of(self, given: Any) -> Config:
        config = super().config_of({k: v for k, v in given.items() if k not in self.OF_TRANSFORMER_2D})
        for key, usual in self.OF_TRANSFORMER_2D.items():
            if given.get(key, usual) != usual:
                config.values[key] = given[key]
                config.refuse(key, f"DiT has {usual!r}")
        return config

    def changes(self, config: Config) -> Data:
        config.must("norm_type", "ada_norm_zero", why="DiT has ada_norm_zero")
        config.must("norm_elementwise_affine", False, why="the norms of adaLN-Zero have no weights of their own")
        config.unused("norm_num_groups", "upcast_attention")  # there are no group norms; the other one is about float16
        heads, channels, side = (
            config.whole("num_attention_heads"),
            config.whole("in_channels"),
            config.whole("sample_size"),
        )
        eps, dropout = config.number("norm_eps", EPS), config.number("dropout", 0.0)
        out = config["out_channels"]
        if out not in (None, channels, 2 * channels):
            config.refuse(
                "out_channels", f"a network of {channels} channels predicts {channels} or {2 * channels} channels"
            )
        pixels = {"first_stage": None} if channels in (1, 3) else {}
        return {
            "data": {"shape": [channels, side, side], "classes": config.whole("num_embeds_ada_norm"), **pixels},
            "backbone": {
                "width": heads * config.whole("attention_head_dim"),
                "depth": config.whole("num_layers"),
                "patch": config.whole("patch_size"),
                "block": {
                    "mixer": {"heads": heads, "qkv_bias": config.flag("attention_bias"), "dropout": dropout},
                    "feed_forward": {
                        "approximate": config.choice("activation_fn", {"gelu-approximate": "tanh", "gelu": "none"}),
                        "dropout": dropout,
                    },
                    "condition": {"feed_forward_eps": None if eps == EPS else eps},
                },
            },
            "conditioning": {"time": {"endpoint": True}},
            "objective": {"variance": "learned_range" if out == 2 * channels else "fixed_small"},
            "sampler": {"guidance": {"scale": GUIDANCE, "channels": None}},
        }

    def config(self, spec: Spec) -> Data:
        net, time, label = spec.networks["main"], spec.time, spec.conditions.get("class")
        same = type(net) is type(load_spec(self.SPEC).networks["main"])
        asked(same, f"its network is `{net.kind}`, not the transformer of `{self.SPEC}`")
        assert isinstance(net, PatchTransformer) and spec.data.shape is not None
        asked(isinstance(time, Timestep), "its network does not take the time as sinusoids of a timestep")
        asked(list(spec.conditions) == ["class"] and isinstance(label, Label), "DiT has one condition, a class label")
        assert isinstance(label, Label)
        mixer, feed_forward, norm, condition = net.block.parts()
        asked(type(condition) is AdalnZero, f"its blocks are conditioned by `{condition.kind}`, not adaln_zero")
        asked(type(mixer) is Attention, f"its tokens are mixed by `{mixer.kind}`, not attention")
        asked(isinstance(feed_forward, GeluMlp), f"its feed-forward layer is `{feed_forward.kind}`, not gelu_mlp")
        asked(isinstance(norm, LayerNorm), f"its norms are `{norm.kind}`, not layer_norm")
        assert isinstance(condition, AdalnZero) and isinstance(mixer, Attention)
        assert isinstance(feed_forward, GeluMlp) and isinstance(norm, LayerNorm)
        asked(net.unused_channels == 0, "it computes output channels and then drops them")
        asked(isinstance(spec.objective, Objective), "it has no objective, so what the network predicts is unknown")
        assert isinstance(spec.objective, Objective)
        channels, side, _ = spec.data.shape
        return {
            **self.DEFAULTS,
            "num_attention_heads": mixer.heads,
            "attention_head_dim": net.width // mixer.heads,
            "in_channels": channels,
            "out_channels": spec.objective.out_channels(channels),
            "num_layers": net.depth,
            "dropout": feed_forward.dropout,
            "attention_bias": mixer.bias if mixer.qkv_bias is None else mixer.qkv_bias,
            "sample_size": side,
            "patch_size": net.patch,
            "activation_fn": {"tanh": "gelu-approximate", "none": "gelu"}[feed_forward.approximate],
            "num_embeds_ada_norm": classes_of("class", label, spec),
            "norm_eps": norm.eps if condition.feed_forward_eps is None else condition.feed_forward_eps,
        }


class _OwnEmbedders(_Transformer):
    """DiT as trained in diffusers: each block has another embedder of timestep and class."""

    SPEC = "diffusers_dit"


class DiTTransformer2DModel(_Transformer):
    """DiT as the authors have it, converted: all blocks hold copies of one embedder."""

    SPEC = "dit"
    UNTIED = _OwnEmbedders()


MODELS = (DiTTransformer2DModel(),)
