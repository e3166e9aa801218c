"""Text encoders of pipelines, as networks that encode a condition."""

from __future__ import annotations

import json
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
    CONDITION: ClassVar[Data] = {"kind": "encoded_text", "null_embedding": "empty_text"}
    RULES: ClassVar[Data] = {}
    """The name map of its weights, if no shipped spec has it."""
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

    def data(self, config: Config, name: str, length: int, folder: Path) -> Data:
        """The data of texts, tokens that end with a mark; those of a mask are valid."""
        text = {"tokenizer": folder / TOKENIZER, "cleaning": "captions"} if (folder / TOKENIZER).is_file() else {}
        if not text:
            config.notes.append(f"{folder.name} has no {TOKENIZER}, so requests pass tokens instead of texts")
        classes, end = config.whole("vocab_size"), config.whole("eos_token_id")
        config.must("pad_token_id", 0)
        found = {"shape": [length], "classes": classes, "medium": "text", "end": end, **text}
        fields = {name: found, f"{name}_mask": {"shape": [length], "dtype": "bool"}}
        return {"kind": "captioned_images", "path": "data/images", "fields": fields}


class LDMBertModel:
    """The text encoder of latent diffusion, of diffusers itself: a transformer of tokens of BERT."""

    NAME = "LDMBertModel"
    NAMES_OF_WEIGHTS = "diffusers"
    CONDITION: ClassVar[Data] = {"kind": "padded_text"}
    RULES: ClassVar[Data] = {
        "text": [
            {"ignore": "to_logits.*"},
            {"from": "model.embed_tokens.weight", "to": "embedding.weight"},
            {"from": "model.embed_positions.weight", "to": "pos_embed", "ops": [{"unsqueeze": 0}]},
            {
                "from": [f"model.layers.{{i}}.self_attn.{part}_proj.weight" for part in "qkv"],
                "to": "blocks.{i}.attn.qkv.weight",
                "ops": [{"concatenate": 0}],
            },
            {"from": "model.layers.{i}.self_attn.out_proj.*", "to": "blocks.{i}.attn.proj.*"},
            {"from": "model.layers.{i}.self_attn_layer_norm.*", "to": "blocks.{i}.norm1.*"},
            {"from": "model.layers.{i}.final_layer_norm.*", "to": "blocks.{i}.norm2.*"},
            {"from": "model.layers.{i}.{layer:fc1|fc2}.*", "to": "blocks.{i}.mlp.{layer:fc1|fc2}.*"},
            {"from": "model.layer_norm.*", "to": "norm.*"},
        ]
    }
    DEFAULTS: ClassVar[Data] = {
        "vocab_size": 30522,
        "max_position_embeddings": 77,
        "encoder_layers": 32,
        "encoder_ffn_dim": 5120,
        "encoder_attention_heads": 8,
        "head_dim": 64,
        "activation_function": "gelu",
        "d_model": 1280,
        "pad_token_id": 0,
    }

    def config_of(self, given: Mapping[str, Any]) -> Config:
        """Its keys alone: others are of training."""
        return Config(self.NAME, {key: given[key] for key in self.DEFAULTS if key in given}, self.DEFAULTS)

    def network(self, config: Config) -> Data:
        """The network."""
        width = config.whole("d_model")
        config.must("activation_function", "gelu")
        return {
            "kind": "text_encoder",
            "masked": False,
            "width": width,
            "depth": config.whole("encoder_layers"),
            "positions": {"kind": "learned"},
            "block": {
                "mixer": {
                    "kind": "attention",
                    "heads": config.whole("encoder_attention_heads"),
                    "head_width": config.whole("head_dim"),
                    "qkv_bias": False,
                },
                "feed_forward": {
                    "kind": "gelu_mlp",
                    "ratio": config.whole("encoder_ffn_dim") / width,
                    "approximate": "none",
                },
                "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
                "condition": {"kind": "in_context"},
            },
        }

    def data(self, config: Config, name: str, length: int, folder: Path) -> Data:
        """The data of texts, tokens between two marks of BERT's vocabulary, filled up with others."""
        config.must("max_position_embeddings", length, why=f"the pipeline passes {length} tokens")
        config.must("pad_token_id", 0)
        start, end = (_vocabulary(folder).get(mark, usual) for mark, usual in (("[CLS]", 101), ("[SEP]", 102)))
        config.notes.append(f"requests pass {name} as tokens of {folder.name}, {length} with its padding")
        found = {"shape": [length], "classes": config.whole("vocab_size"), "medium": "text"}
        return {"kind": "npz", "path": "data/latents.npz", "fields": {name: {**found, "start": start, "end": end}}}


def _vocabulary(folder: Path) -> Mapping[str, int]:
    """Numbers of the tokens of a tokenizer; none if it has neither `tokenizer.json` nor `vocab.txt`."""
    try:
        if (folder / TOKENIZER).is_file():
            found = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))["model"]["vocab"]
            return found if isinstance(found, dict) else {}
        lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {line: number for number, line in enumerate(lines)}


ENCODERS: dict[str, T5EncoderModel | LDMBertModel] = {
    T5EncoderModel.NAME: T5EncoderModel(),
    LDMBertModel.NAME: LDMBertModel(),
}
