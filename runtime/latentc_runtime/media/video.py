"""Videos: an animated GIF with a grid of all samples, or a PNG with a film strip per sample."""

import io

import numpy as np

from latentc_runtime.media.files import Array, Field, Writer, npz
from latentc_runtime.media.pixels import Pixels, arranged, bytes_of, grid, png

STRIP = 8  # frames of a film strip, evenly spaced


def frames(samples: Array, field: Field) -> Pixels:
    """Samples as u8[B, F, H, W, C]."""
    return bytes_of(arranged(samples, field, ("frame", "height", "width", "channel")), field)


def pictures(samples: Array, field: Field) -> Pixels:
    """A film strip per sample, u8[B, H, W STRIP, C]."""
    films = frames(samples, field)
    shown = np.linspace(0, films.shape[1] - 1, min(STRIP, films.shape[1])).round().astype(int)
    return np.concatenate([films[:, i] for i in shown], axis=2)


def sheet(samples: Array, field: Field, columns: int) -> bytes:
    """A PNG with a film strip per row."""
    return png(grid(pictures(samples, field), 1, gap=2))


def gif(samples: Array, field: Field, columns: int) -> bytes:
    """An endless GIF in which all samples play side by side; needs Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("writing a GIF needs Pillow: pip install pillow") from None
    films = frames(samples, field).swapaxes(0, 1)
    sheets = [grid(film, columns, gap=2) for film in films]
    images = [Image.fromarray(s[..., 0] if s.shape[-1] == 1 else s) for s in sheets]
    file, milliseconds = io.BytesIO(), round(1000 / (field.get("rate") or 8))
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return file.getvalue()


FORMATS: dict[str, Writer] = {".gif": gif, ".png": sheet, ".npz": npz}
