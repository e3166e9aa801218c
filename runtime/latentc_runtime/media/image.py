"""Images: a PNG with a grid of all samples."""

from latentc_runtime.media.files import Array, Field, Writer, npz
from latentc_runtime.media.pixels import Pixels, arranged, bytes_of, grid, png


def pictures(samples: Array, field: Field) -> Pixels:
    """Samples as pictures u8[B, H, W, C]."""
    return bytes_of(arranged(samples, field, ("height", "width", "channel")), field)


def sheet(samples: Array, field: Field, columns: int) -> bytes:
    """A PNG of all samples, row by row."""
    return png(grid(pictures(samples, field), columns, gap=2))


FORMATS: dict[str, Writer] = {".png": sheet, ".npz": npz}
