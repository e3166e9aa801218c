"""Text: a file with one line per sample."""

import json
from collections.abc import Sequence

from latentc_runtime.media.files import Array, Field, Writer, npz
from latentc_runtime.texts import text_from_tokens


def lines(samples: Array, field: Field) -> list[str]:
    """Each sample as text up to the token that ends it: by the tokenizer, the alphabet or as bytes, else numbers."""
    return [text_from_tokens(sample, field) for sample in samples.tolist()]


def txt(samples: Array, field: Field, columns: int) -> bytes:
    """A line per sample; line breaks of a sample become spaces."""
    return "".join(f"{' '.join(line.splitlines())}\n" for line in lines(samples, field)).encode()


def jsonl(samples: Array, field: Field, columns: int) -> bytes:
    """A line {"text": …} per sample."""
    return labelled(samples, field, ())


def labelled(samples: Array, field: Field, labels: Sequence[str]) -> bytes:
    """A line {"label": …, "text": …} per sample, without labels if there are none."""
    rows = [{"text": text} for text in lines(samples, field)]
    if labels:
        rows = [{"label": label, **row} for label, row in zip(labels, rows, strict=True)]
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


FORMATS: dict[str, Writer] = {".txt": txt, ".jsonl": jsonl, ".npz": npz}
