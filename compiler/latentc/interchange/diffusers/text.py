"""Text encoders of pipelines, as networks that encode a condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from latentc.interchange.diffusers.equivalent import Config, Data

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Texts:
    """The condition that a pipeline encodes texts as: its parts for that, and the number of tokens of a text.

    `projection`: of the features by the network.
    """

    condition: str
    encoder: str
    tokenizer: str
    length: int
    projection: str = "mlp"


class T5EncoderModel:
    """The encoder of T5, of transformers."""

    NAME = "T5EncoderModel"
    NAMES_OF_WEIGHTS = "official"
    DEFAULTS: ClassVar[Data] = {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "eos_token_id": 1,
        "pad_token_id": 0,
    }

    def config_of(self, given: Mapping[str, Any]) -> Config:
        """Its keys alone: a configuration of transformers has many others, of decoders, generation and tasks."""
        return Config(self.NAME, {key: given[key] for key in self.DEFAULTS if key in given}, self.DEFAULTS)

    def network(self, config: Config) -> Data:
        """The network, as changes to the spec `t5`."""
        width, inner = config.whole("d_model"), config.whole("d_ff")
        gated = config.choice("feed_forward_proj", {"gated-gelu": True, "relu": False})
        feed_forward: Data = {"hidden": inner}
        if not gated:
            feed_forward = {"kind": "relu_mlp", "ratio": inner / width, "bias": False}
        return {
            "extends": "t5",
            "width": width,
            "depth": config.whole("num_layers"),
            "relative": {
                "buckets": config.whole("relative_attention_num_buckets"),
                "furthest": config.whole("relative_attention_max_distance"),
            },
            "block": {
                "mixer": {"heads": config.whole("num_heads"), "head_width": config.whole("d_kv")},
                "feed_forward": feed_forward,
                "norm": {"eps": config.number("layer_norm_epsilon", 1e-6)},
            },
        }

    def tokens(self, config: Config, length: int, tokenizer: Path | None) -> Data:
        """The data field of the texts, tokens that end with a mark."""
        text = {} if tokenizer is None else {"tokenizer": tokenizer, "cleaning": "captions"}
        classes, end = config.whole("vocab_size"), config.whole("eos_token_id")
        config.must("pad_token_id", 0)
        return {"shape": [length], "classes": classes, "medium": "text", "end": end, **text}


ENCODERS = {T5EncoderModel.NAME: T5EncoderModel()}
