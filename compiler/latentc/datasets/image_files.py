"""Image files as pictures of 8 bits per channel, by one rule wherever images are read.

Grey levels of 16 bits are divided by 65535 (those of 12 bits in a TIFF by 4095), and floats must be in [0, 1].
Transparent pixels show white, pictures are turned upright as EXIF says, and of several frames the first is taken.
Palettes, CMYK, YCbCr and grey are converted as Pillow does; colour profiles are ignored. Anything else is refused.
"""

from typing import Any

import numpy as np

from latentc.datasets.arrays import reading

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VERSION = "image files 2"  # caches of pixels depend on it: another number whenever a file gives other pixels
TRANSPARENT = {"LA", "La", "PA", "RGBA", "RGBa"}  # modes of Pillow
KNOWN = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *TRANSPARENT}
ORIENTATION = 274  # tag of EXIF
BITS, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value


def picture_from_file(source: Any, name: Any, mode: str | None = None) -> Any:
    """The picture in a file (a path or an opened file), as Pillow has it: grey ("L") or "RGB".

    `mode`: which of both; None: grey stays grey. `name` is what messages call it. Raises ValueError.
    """
    from PIL import Image

    with reading(name, "an image"), _opened(source) as file:
        file.load()
        picture = _in_8_bits(_upright(file), file)
        grey = picture.mode in ("1", "L", "LA", "La")
        if picture.mode in TRANSPARENT or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert(mode or ("L" if grey else "RGB"))


def _opened(source: Any) -> Any:
    """The file as Pillow opens it. Raises ValueError for content of no known kind."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source)
    except UnidentifiedImageError:  # its message shows addresses of objects
        raise ValueError("its content is of no kind of image that Pillow knows") from None


def _upright(file: Any) -> Any:
    """The picture turned as its EXIF says."""
    from PIL import ImageOps

    try:
        turned = file.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # EXIF can be damaged in many ways, and then says nothing
        return file
    return ImageOps.exif_transpose(file) if turned else file


def _in_8_bits(picture: Any, file: Any) -> Any:
    """The picture with levels of more bits scaled to 8. Raises ValueError for values of unknown scale."""
    from PIL import Image

    tags = getattr(file, "tag_v2", {})
    if picture.mode.startswith("I;16") or (picture.mode == "I" and file.format in ("PNG", "PPM")):
        (bits, *_) = tags.get(BITS, (16,))
        values = np.asarray(picture).astype(np.float64) / (2**bits - 1)
    elif picture.mode == "F":
        values = np.asarray(picture).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 1):  # true of nan
            raise ValueError(f"its floats run from {values.min():g} to {values.max():g}, but must be in [0, 1]")
    elif picture.mode == "I":
        raise ValueError("it holds integers of 32 bits, whose scale is unknown; save it with 8 or 16 bits")
    elif picture.mode not in KNOWN:
        raise ValueError(f"its colours are {picture.mode}; save it as RGB")
    else:
        return picture
    if "transparency" in picture.info:
        raise ValueError("one of its levels is transparent; save it with an alpha channel")
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 1 - values
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
