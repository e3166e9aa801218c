"""A grid of pictures with the label of each; text is drawn by Pillow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc_runtime.media.pixels import Pixels, grid

SMALLEST = 48  # pixels; smaller pictures are enlarged by a whole factor
WIDEST = 240  # pixels of a label left of its row
FONT, LINE, GAP = 12, 18, 2  # pixels


def labelled_grid(pictures: Pixels, columns: int, labels: Sequence[str]) -> Pixels:
    """Pictures u8[B, H, W, C] row by row, with their labels: one left of each row that shares it, else one below each.

    Returns u8[H', W', C]. Raises ValueError, also if Pillow is missing.
    """
    if len(labels) != len(pictures):
        raise ValueError(f"{len(labels)} labels for {len(pictures)} pictures")
    font = _font()
    factor = -(-SMALLEST // min(pictures.shape[1:3])) if len(pictures) else 1
    pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    rows = [labels[at : at + columns] for at in range(0, len(labels), columns)]
    if all(len(set(row)) == 1 for row in rows) and columns > 1:
        names = [row[0] for row in rows]
        width = min(WIDEST, max(int(font.getlength(name)) for name in names) + 3 * GAP)
        sheet = grid(pictures, columns, GAP)
        margin = _texts(names, width, pictures.shape[1], font)
        margin = np.pad(margin, ((0, 0), (0, GAP), (0, 0), (0, 0)), constant_values=255).reshape(-1, width, 1)
        margin = margin[: len(sheet)].repeat(sheet.shape[2], axis=2)
        return np.concatenate([margin, sheet], axis=1)
    captions = _texts(labels, pictures.shape[2], LINE, font).repeat(pictures.shape[3], axis=3)
    return grid(np.concatenate([pictures, captions], axis=1), columns, GAP)


def _font() -> Any:
    try:
        from PIL import ImageFont
    except ImportError:
        raise ValueError("drawing labels needs Pillow: pip install pillow") from None
    return ImageFont.load_default(FONT)


def _texts(texts: Sequence[str], width: int, height: int, font: Any) -> Pixels:
    """Each text in black on white, u8[N, height, width, 1], shortened to fit."""
    from PIL import Image, ImageDraw

    made = np.empty((len(texts), height, width, 1), np.uint8)
    for strip, text in zip(made, texts, strict=True):
        image = Image.new("L", (width, height), 255)
        text = _shortened(text, width - 2 * GAP, font)
        ImageDraw.Draw(image).text((GAP, height // 2), text, fill=0, font=font, anchor="lm")
        strip[..., 0] = np.asarray(image)
    return made


def _shortened(text: str, width: int, font: Any) -> str:
    """As much of a text as fits into `width` pixels, with … in place of the rest."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
