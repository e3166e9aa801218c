"""Images as training sees them anew each time: random crops, RandAugment, and mixtures of images and labels.

Numbers are drawn as timm 0.3 draws them, which classifiers are trained with. Symbols: n images, K classes.
"""

from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Views = dict[str, Any]
"""Settings: `crop`, `fit`, `rand_augment` (or null), `mixup`, `cutmix`, as the spec's `views` has them."""

FILL = (124, 116, 104)
"""ImageNet's mean colour, which geometric operations fill what they uncover with."""


def random_view(picture: Any, side: int, views: Views, flip: bool, rng: np.random.Generator) -> Any:
    """A crop of a picture (of Pillow) at `side` × `side` pixels, perhaps mirrored, with random operations."""
    from PIL import Image

    if views["crop"] is None:
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box = (left, top, left + short, top + short)
    else:
        box = random_box(picture.width, picture.height, views["crop"], views["fit"] == "clamped", rng)
    picture = picture.crop(box).resize((side, side), Image.Resampling.BICUBIC)
    if flip and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture if views["rand_augment"] is None else rand_augmented(picture, rng, **views["rand_augment"])


def random_box(
    width: int, height: int, share: tuple[float, float], clamped: bool, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a rectangle whose share of the image's area is drawn from `share`.

    Its aspect ratio is between 3/4 and 4/3. One that does not fit is drawn again, up to ten times, after which the
    centre is taken; or it is `clamped` to the image.
    """
    narrow, wide = 3 / 4, 4 / 3
    for _ in range(1 if clamped else 10):
        area = rng.uniform(*share) * width * height
        aspect = exp(rng.uniform(log(narrow), log(wide)))
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if clamped:
            w, h = min(w, width), min(h, height)
        if w <= width and h <= height:
            top = int(rng.integers(0, height - h, endpoint=True))
            left = int(rng.integers(0, width - w, endpoint=True))
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < narrow:
        h = round(width / narrow)
    elif width / height > wide:
        w = round(height * wide)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


# ---- RandAugment (Cubuk et al. 2019, arXiv:1909.13719), with operations that are stronger at greater magnitudes.

MOST = 10.0
"""Greatest magnitude."""

Operation = Callable[[Any, float, Callable[[float], float]], Any]
"""(picture, strength in [0, 1], a function that gives a number a random sign) -> picture."""


def _moved(picture: Any, a: float, b: float, c: float, d: float, e: float, f: float) -> Any:
    """The pixel (x, y) of the result is that at (a x + b y + c, d x + e y + f)."""
    from PIL import Image

    affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return picture.transform(picture.size, affine, (a, b, c, d, e, f), bicubic, fillcolor=_fill(picture))


def _fill(picture: Any) -> Any:
    return FILL if picture.mode == "RGB" else round(sum(FILL) / 3)


def _rotated(picture: Any, strength: float, signed: Callable[[float], float]) -> Any:
    from PIL import Image

    return picture.rotate(signed(30 * strength), Image.Resampling.BICUBIC, fillcolor=_fill(picture))


def _brightened(picture: Any, strength: float, signed: Callable[[float], float]) -> Any:
    """Values below 128 grow by up to 110."""
    more = int(110 * strength)
    table = [min(255, value + more) if value < 128 else value for value in range(256)]
    return picture.point(table * len(picture.getbands()))


def _posterized(picture: Any, strength: float, signed: Callable[[float], float]) -> Any:
    """The highest four bits of each value, or fewer; none at the greatest strength, as in Pillow before 12."""
    mask = 256 - 2 ** (4 + int(4 * strength))
    return picture.point([value & mask for value in range(256)] * len(picture.getbands()))


def _of(name: str, *arguments: Callable[[float], Any]) -> Operation:
    """A function of Pillow's ImageOps; its arguments follow from the strength."""

    def operation(picture: Any, strength: float, signed: Callable[[float], float]) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(picture, *(argument(strength) for argument in arguments))

    return operation


def _enhanced(name: str) -> Operation:
    """An enhancement of Pillow's; a factor of 1 changes nothing."""

    def operation(picture: Any, strength: float, signed: Callable[[float], float]) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(picture).enhance(1 + signed(0.9 * strength))

    return operation


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _of("autocontrast"),
    "equalize": _of("equalize"),
    "invert": _of("invert"),
    "rotate": _rotated,
    "posterize": _posterized,
    "solarize": _of("solarize", lambda strength: 256 - int(256 * strength)),
    "solarize_add": _brightened,
    "color": _enhanced("Color"),
    "contrast": _enhanced("Contrast"),
    "brightness": _enhanced("Brightness"),
    "sharpness": _enhanced("Sharpness"),
    "shear_x": lambda picture, strength, signed: _moved(picture, 1, signed(0.3 * strength), 0, 0, 1, 0),
    "shear_y": lambda picture, strength, signed: _moved(picture, 1, 0, 0, signed(0.3 * strength), 1, 0),
    "translate_x": lambda p, strength, signed: _moved(p, 1, 0, signed(0.45 * strength) * p.width, 0, 1, 0),
    "translate_y": lambda p, strength, signed: _moved(p, 1, 0, 0, 0, 1, signed(0.45 * strength) * p.height),
}
"""The operations by name; those without a strength are as strong at any."""


def rand_augmented(
    picture: Any, rng: np.random.Generator, operations: int, magnitude: float, deviation: float, probability: float
) -> Any:
    """A picture after `operations` random operations, each of which is applied with a probability."""
    signed = lambda value: -value if rng.random() > 0.5 else value  # noqa: E731
    for which in rng.integers(len(OPERATIONS), size=operations):
        if probability < 1 and rng.random() > probability:
            continue
        strength = rng.normal(magnitude, deviation) if deviation else magnitude
        picture = list(OPERATIONS.values())[which](picture, min(MOST, max(0.0, strength)) / MOST, signed)
    return picture


# ---- Mixtures


def mixed(x: Array, axes: tuple[int, int], views: Views, rng: np.random.Generator) -> tuple[Array, float]:
    """Images [n, ...] mixed with those in reverse order, and the share of the label that stays the image's own.

    Either mixup (Zhang et al. 2017, arXiv:1710.09412), sums of two images, or CutMix (Yun et al. 2019,
    arXiv:1905.04899), a rectangle of the other image; if both are on, each with probability 1/2. `axes`: height and
    width.
    """
    mixup, cutmix = views["mixup"], views["cutmix"]
    cuts = not mixup or (cutmix > 0 and rng.random() < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return (share * x + (1 - share) * x[::-1]).astype(x.dtype), share
    height, width = (x.shape[axis] for axis in axes)
    (top, bottom), (left, right) = (_interval(n, int(n * sqrt(1 - share)), rng) for n in (height, width))
    place: list[slice] = [slice(None)] * x.ndim
    place[axes[0]], place[axes[1]] = slice(top, bottom), slice(left, right)
    result = x.copy()
    result[tuple(place)] = x[::-1][tuple(place)]
    return result, 1 - (bottom - top) * (right - left) / (height * width)


def _interval(size: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """An interval about a random centre, cut off at the ends of the axis."""
    centre = int(rng.integers(0, size))
    return max(0, centre - length // 2), min(size, centre + length // 2)


def mixes(views: Views | None) -> bool:
    """True if images are mixed, so that samples have the fields `y_other` and `y_share`."""
    return views is not None and bool(views["mixup"] or views["cutmix"])


def mixed_rows(
    rows: dict[str, Array], name: str, axes: tuple[int, int], views: Views, rng: np.random.Generator | None
) -> dict[str, Array]:
    """Rows with the images `name` mixed, the label of the other image, and the share of the own one.

    Without `rng` images stay as they are, with a share of 1.
    """
    if not mixes(views):
        return rows
    other, share = rows["y"], 1.0
    if rng is not None:
        x, share = mixed(rows[name], axes, views, rng)
        rows, other = {**rows, name: np.ascontiguousarray(x)}, rows["y"][::-1].copy()
    return {**rows, "y_other": other, "y_share": np.full(len(other), share, np.float32)}
