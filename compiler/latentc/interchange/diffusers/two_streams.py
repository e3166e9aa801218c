"""Transformers with two streams of tokens: Stable Diffusion 3's and FLUX's.

Components of systems go by their kinds here: only `components.packages` imports systems.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.blocks.positions.sincos_2d_table import Sincos2dTable
from latentc.components.conditions.features import Features
from latentc.interchange.diffusers.equivalent import Config, Data, Model, asked, given_null

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

SD3_TOKENS, FLUX_TOKENS = 77 + 256, 512
"""Tokens of a text in the pipelines by default; the transformers take any number."""
SD3_GUIDANCE = 7.0
FLUX_SIDE = 128
"""Side of the latents of an image of the default size, which FLUX's configuration does not have."""


def _network(spec: Spec, kind: str) -> Any:
    """The network, of this kind. Raises Unequal."""
    net: Any = spec.networks["main"]
    asked(net.kind == kind, f"its network is `{net.kind}`, not `{kind}`")
    return net


def _taken(spec: Spec, net: Any, name: str) -> tuple[int, int]:
    """Channels of the features and of the vector of a text that a network takes. Raises Unequal."""
    caption, time = spec.conditions.get("caption"), spec.time
    pooled: Any = spec.conditions.get("pooled")
    asked(time is not None and time.kind == "flow_timestep", "its network does not take the time of a flow")
    asked(
        isinstance(caption, Features) and (caption.projection, caption.padding) == ("linear", "none"),
        f"a {name} takes features of a caption that all count, by a linear map, as condition `caption`",
    )
    asked(
        pooled is not None and pooled.kind == "pooled_text",
        f"a {name} takes a vector of a text through two layers, as condition `pooled`",
    )
    assert isinstance(caption, Features)
    asked(not caption.learns_null and not pooled.learns_null, "what it takes for no text are weights")
    asked(set(net.takes(spec)) <= {"caption", "pooled", "guidance"}, f"a {name} takes no other conditions")
    asked(net.ratio == 4, f"its feed-forwards are {net.ratio} times as wide, those of a {name} 4 times")
    return caption.shape("caption", spec)[-1], pooled.shape("pooled", spec)[-1]


class SD3Transformer2DModel(Model):
    """MM-DiT, the transformer of `StableDiffusion3Pipeline`. Texts are features and a vector."""

    NAMES = ("SD3Transformer2DModel",)
    SPEC = "sd3"
    ADAPTED = ("stored",)
    DEFAULTS: ClassVar[Data] = {
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 18,
        "attention_head_dim": 64,
        "num_attention_heads": 18,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1152,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 96,
        "dual_attention_layers": [],
        "qk_norm": None,
    }

    def changes(self, config: Config) -> Data:
        channels, side, patch = config.whole("in_channels"), config.whole("sample_size"), config.whole("patch_size")
        heads, depth = config.whole("num_attention_heads"), config.whole("num_layers")
        width, table = heads * config.whole("attention_head_dim"), config.whole("pos_embed_max_size")
        if config["out_channels"] is not None:
            config.must("out_channels", channels, why=f"a flow of {channels} channels has a velocity of as many")
        config.must("caption_projection_dim", width, why="both streams have the width of the network")
        if table < side // patch:
            config.refuse("pos_embed_max_size", f"there are {side // patch} rows of patches")
        if config["qk_norm"] is not None:
            config.must("qk_norm", "rms_norm")
        dual = config["dual_attention_layers"]
        dual = list(dual) if isinstance(dual, list | tuple) else [dual]
        if dual != list(range(len(dual))) or len(dual) >= depth:
            config.refuse("dual_attention_layers", "only the first blocks, and not the last, may have two attentions")
        features, pooled = config.whole("joint_attention_dim"), config.whole("pooled_projection_dim")
        fields = {**given_null("caption", SD3_TOKENS, features, masked=False), **given_null("pooled", None, pooled)}
        return {
            "data": {"shape": [channels, side, side], "fields": fields},
            "backbone": {
                "width": width,
                "depth": depth,
                "dual": len(dual),
                "heads": heads,
                "patch": patch,
                "qk_norm": config["qk_norm"] is not None,
                "positions": {"side": table, "extent": side // patch},
            },
            "sampler": {"guidance": {"scale": SD3_GUIDANCE}},
        }

    def config(self, spec: Spec) -> Data:
        net = _network(spec, "mmdit")
        assert spec.data.shape is not None
        features, pooled = _taken(spec, net, self.NAMES[0])
        asked("guidance" not in net.takes(spec), "an SD3Transformer2DModel does not take a guidance scale")
        channels, side, _ = spec.data.shape
        positions, grid = net.positions, side // net.patch
        asked(isinstance(positions, Sincos2dTable), "its positions are not a table of sines and cosines")
        assert isinstance(positions, Sincos2dTable)
        table = grid if positions.side is None else positions.side
        asked((positions.extent or table) == grid, "the coordinates of its table do not have the extent of its patches")
        return {
            **self.DEFAULTS,
            "sample_size": side,
            "patch_size": net.patch,
            "in_channels": channels,
            "num_layers": net.depth,
            "attention_head_dim": net.width // net.heads,
            "num_attention_heads": net.heads,
            "joint_attention_dim": features,
            "caption_projection_dim": net.width,
            "pooled_projection_dim": pooled,
            "out_channels": channels,
            "pos_embed_max_size": table,
            "dual_attention_layers": list(range(net.dual)),
            "qk_norm": "rms_norm" if net.qk_norm else None,
        }


class FluxTransformer2DModel(Model):
    """The transformer of `FluxPipeline`, on patches of latents."""

    NAMES = ("FluxTransformer2DModel",)
    SPEC = "flux"
    DEFAULTS: ClassVar[Data] = {
        "patch_size": 1,
        "in_channels": 64,
        "out_channels": None,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": False,
        "axes_dims_rope": [16, 56, 56],
    }

    def changes(self, config: Config) -> Data:
        packed, heads = config.whole("in_channels"), config.whole("num_attention_heads")
        config.must("patch_size", 1, why="the pipeline packs patches of latents as tokens")
        if config["out_channels"] is not None:
            config.must("out_channels", packed, why="a flow has a velocity of as many channels")
        if packed % 4:
            config.refuse("in_channels", "a token is a patch of 2 by 2 latents, so it must be a multiple of 4")
        axes, size = config.wholes("axes_dims_rope"), config.whole("attention_head_dim")
        if len(axes) != 3 or sum(axes) != size or any(count % 2 for count in axes):
            config.refuse("axes_dims_rope", f"it must be three even numbers whose sum is {size}")
        features, pooled = config.whole("joint_attention_dim"), config.whole("pooled_projection_dim")
        fields = {
            name: field
            for part in (given_null("caption", FLUX_TOKENS, features, masked=False), given_null("pooled", None, pooled))
            for name, field in part.items()
            if not name.endswith("_null")
        }
        added = {} if config.flag("guidance_embeds") else {"conditioning": {"guidance": None}}
        return {
            "data": {"shape": [max(packed // 4, 1), FLUX_SIDE, FLUX_SIDE], "fields": fields},
            "backbone": {
                "width": heads * size,
                "depth": config.whole("num_layers"),
                "single": config.whole("num_single_layers"),
                "heads": heads,
                "positions": {"axes": axes},
            },
            **added,
        }

    def config(self, spec: Spec) -> Data:
        net = _network(spec, "flux_transformer")
        assert spec.data.shape is not None
        features, pooled = _taken(spec, net, self.NAMES[0])
        guidance: Any = net.takes(spec).get("guidance")
        added = guidance is None or (guidance.kind, guidance.frequencies) == ("distilled_guidance", 256)
        asked(added, "it takes the guidance scale in another way")
        asked(net.patch == 2, "FLUX's patches have 2 by 2 latents")
        positions = net.positions
        asked(positions is not None and positions.kind == "rope_axes", "its positions are not FLUX's")
        asked(positions.base == 10000, "the ratio of wavelengths of its positions is not 10000")
        return {
            **self.DEFAULTS,
            "in_channels": 4 * spec.data.shape[0],
            "num_layers": net.depth,
            "num_single_layers": net.single,
            "attention_head_dim": net.width // net.heads,
            "num_attention_heads": net.heads,
            "joint_attention_dim": features,
            "pooled_projection_dim": pooled,
            "guidance_embeds": guidance is not None,
            "axes_dims_rope": list(positions.axes),
        }


MODELS = (SD3Transformer2DModel(), FluxTransformer2DModel())
