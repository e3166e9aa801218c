"""Texts of samples as tokens: a field of medium `text`, and NAME_mask, which says which tokens are the text's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array


def texts_as_tokens(name: str, texts: list[str], field: dict[str, Any], masked: bool) -> dict[str, Array]:
    """Tokens [N, L] of texts, and with `masked` which of them are the text's. Raises ValueError."""
    from latentc_runtime.texts import sample_from_text, tokens_from_text  # which data without texts does without

    (length,) = field["shape"]
    if not masked:
        return {name: np.array([sample_from_text(text, field, length) for text in texts], np.int64)}
    tokens = np.zeros((len(texts), length), np.int64)
    mask = np.zeros((len(texts), length), np.bool_)
    for i, text in enumerate(texts):
        own = tokens_from_text(text, field, length)
        tokens[i, : len(own)], mask[i, : len(own)] = own, True
    return {name: tokens, f"{name}_mask": mask}


def of_text(name: str, fields: dict[str, Any], suffix: str = "_mask", dtype: str = "bool") -> bool:
    """True if a field says something of the text of another, such as which tokens count."""
    text = name.removesuffix(suffix)
    return text != name and fields[name]["dtype"] == dtype and fields.get(text, {}).get("medium") == "text"


class Captions:
    """A field [N, L] of the captions of images, made of their texts when it is read: `texts(i)` is that of image i."""

    def __init__(self, texts: Callable[[int], str], name: str, field: dict[str, Any], masked: bool, part: str):
        self.texts, self.name, self.field, self.masked, self.part = texts, name, field, masked, part

    def __getitem__(self, index: Array) -> Array:
        texts = [self.texts(int(i)) for i in index]
        return texts_as_tokens(self.name, texts, self.field, self.masked)[self.part]


def caption_arrays(texts: Callable[[int], str], name: str, fields: dict[str, Any]) -> dict[str, Captions]:
    """The field `name` of captions, and its mask if the data has one."""
    masked = f"{name}_mask" in fields
    parts = [name, *([f"{name}_mask"] if masked else [])]
    return {part: Captions(texts, name, fields[name], masked, part) for part in parts}


def text_names(fields: dict[str, Any]) -> list[str]:
    """Names of the fields of text."""
    return [name for name, field in fields.items() if field["medium"] == "text"]
