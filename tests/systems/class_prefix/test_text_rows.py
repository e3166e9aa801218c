"""Texts one after another, in blocks of the sample length."""

from pathlib import Path

import numpy as np
import pytest

from latentc.datasets import open_dataset
from latentc.systems.class_prefix.text_rows import TextRows


def test_texts_are_cut_into_blocks(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("label\ttext\nb\tone\na\ttwo\n")
    tokens = {"shape": [4], "classes": 256, "medium": "text", "end": 0}
    given = {"row": "{label}:{text}", "path": str(tmp_path / "t.tsv"), "classes": 2, "fields": {"tokens": tokens}}
    data = open_dataset(TextRows.model_validate({"kind": "text_rows", **given}).settings())
    rows = data.rows(np.arange(data.size))
    text = b"b:one\0 a:two\0"
    assert data.size == len(text) // 4
    assert rows["tokens"].tolist() == [[*text[i : i + 4]] for i in range(0, 12, 4)]
    assert rows["y"].tolist() == [1, 1, 0]  # classes in sorted order, by the text that a block begins in
    given["fields"] = {"tokens": {**tokens, "shape": [16]}}
    with pytest.raises(ValueError, match="have 13 tokens, too few for one block of 16"):
        open_dataset(TextRows.model_validate({"kind": "text_rows", **given}).settings())
