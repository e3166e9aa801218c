"""Images encoded once by the first stage, into a cache next to their folder.

Fields that are `resized` hold codes of the same views at a lower resolution, each in its own cache. The name
of a cache depends on the images, the crops and the first stage: if one changes, images are encoded again.
Projects with the same data and first stage share it.
With `views`, images change whenever they are read, so each batch is encoded, without a cache.
"""

import hashlib
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import first_stage
from .arrays import drawn_rows
from .progress import shown
from .storage import sweep_parts, write_whole

BATCH = 1 << 21  # numbers of the images encoded at once: 10 of 3 × 256 × 256


class Encoded:
    """Codes [P, views, ...] of every image, and the image of each sample: i64[N].

    Training draws one of the image's crops and mirror images at random.
    """

    in_memory = False

    def __init__(self, codes: np.ndarray, picture: np.ndarray, arrays: dict[str, np.ndarray], stage: dict[str, Any]):
        self.codes, self.picture, self.stage, self.size = codes, picture, stage, len(picture)
        self.read = np.arange(self.size)  # the sample in place of each: another one if its image is damaged
        self.arrays = arrays  # labels, captions: [N, ...] by field
        # region resized
        self.resized: dict[str, np.ndarray] = {}
        # endregion
        # region encoded
        self.views: Callable[[int], np.ndarray]  # u8[views, H, W, C] of an image
        self.made_of: list[str]
        # By field: [N, views, ...], or [N, 1, ...], the same for all views of an image.
        self.features: dict[str, np.ndarray] = {}
        # endregion

    def rows(self, index: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Latents `x` or `tokens`, labels and captions; the first view if there is no `rng`."""
        views = self.codes.shape[1]
        view = np.zeros_like(index) if rng is None else rng.integers(views, size=len(index))
        index = self.read[index]
        at = self.picture[index]  # whose codes these are
        found = first_stage.field_from_codes(self.codes[at, view], self.stage, rng)
        # region resized
        for name, codes in self.resized.items():
            found[name] = first_stage.field_from_codes(codes[at, view], self.stage, rng)["x"]
        # endregion
        # region encoded
        found |= {name: each[index, view % each.shape[1]] for name, each in self.features.items()}
        # endregion
        return found | {name: array[index] for name, array in self.arrays.items()}

    # region encoded
    def identity(self) -> list[str]:
        """Texts that identify the images and their views, for names of caches."""
        return self.made_of

    # endregion


# region views
class Fresh:
    """Images as they are this time, which `finished` encodes in the training process."""

    in_memory = False

    def __init__(self, images: Any, settings: dict[str, Any]):
        self.images, self.stage, self.size = images, settings["first_stage"], images.size
        self.views, self.flip = settings["views"], settings["horizontal_flip"]
        self.labelled = "y" in settings["fields"]

    def rows(self, index: np.ndarray, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Images `pixels` f32[n, C, H, W] in [-1, 1], labels, captions, and a number that draws latents."""
        from .views import mixed_rows

        images, views, flip = self.images, self.views, self.flip
        if rng is None:
            index, pixels = images.read(index, images.pixels)
        else:
            index, pixels = images.read(index, lambda i: images.random_view(i, views, flip, rng))
        found = {"pixels": pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)}
        found |= {"y": self.images.y[index]} if self.labelled else {}
        found |= {name: array[index] for name, array in self.images.arrays.items()}
        found = mixed_rows(found, "pixels", (2, 3), self.views, rng)
        return found | {"key": np.array(-1 if rng is None else rng.integers(1 << 62))}

    @torch.no_grad()
    def finished(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with `tokens`, or latents `x`, in place of the images."""
        model = first_stage.load(self.stage)
        pixels, key = batch.pop("pixels"), int(batch.pop("key"))
        codes = first_stage.codes_from_images(model, pixels.to(next(model.parameters()).device)).cpu().numpy()
        rng = None if key < 0 else np.random.default_rng(key)
        fields = first_stage.field_from_codes(codes, self.stage, rng)
        return batch | {name: torch.from_numpy(array) for name, array in fields.items()}

    def identity(self) -> list[str]:
        """Texts that identify the images, for names of caches."""
        return self.images.identity()


# endregion
def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the classes, if the images come with some."""
    find = getattr(importlib.import_module(f".{settings['kind']}", __package__), "class_names", None)
    return find(settings) if find else []


def views_of(images: Any, index: int, flip: bool, crops: str) -> np.ndarray:
    """u8[views, H, W, C] of one image: its crops, then their mirror images if `flip`."""
    side = images.side
    if crops == "ten":  # the corners and the centre of a larger image
        large = images.pixels(index, int(side * 1.1))
        end, middle = large.shape[0] - side, (large.shape[0] - side) // 2
        places = [(0, 0), (0, end), (end, 0), (end, end), (middle, middle)]
        found = np.stack([large[top : top + side, left : left + side] for top, left in places])
    else:
        found = images.pixels(index)[None].copy()
    return np.concatenate([found, found[:, :, ::-1]]) if flip else found


def opened(settings: dict[str, Any]) -> Any:
    """The images, with the channels and the size that the first stage takes."""
    channels, side, _ = settings["first_stage"]["field"]["shape"]
    images = importlib.import_module(f".{settings['kind']}", __package__).open_pictures(settings, side, channels)
    images.skips = settings["damaged"] == "skip"
    return images


def open_dataset(settings: dict[str, Any]) -> Any:
    """The codes of the images, encoded now if they are not cached and do not change. Raises ValueError."""
    stage, fields, folder = settings["first_stage"], settings["fields"], Path(settings["path"])
    images, side = opened(settings), stage["field"]["shape"][1]
    # region views
    if settings["views"] is not None:
        first_stage.file_of(stage)  # or says how to write it
        return Fresh(images, settings)
    # endregion
    flip, crops = settings["horizontal_flip"], settings["crops"]
    identity = [str(flip), crops, *(["skip"] if images.skips else []), *images.identity()]
    # Contents, not paths: every project has its own copy of the first stage, and they share the caches.
    encoder = [first_stage.file_of(stage), Path(__file__).with_name("autoencoder.py")]
    made_of = [*(hashlib.sha256(file.read_bytes()).hexdigest() for file in encoder), *identity]

    picture = np.arange(images.size) if images.picture is None else images.picture
    first = np.unique(picture, return_index=True)[1]  # a sample of each image

    def cache_of(small: int | None) -> Path:
        """The codes of the images, first resized to `small` pixels per side unless it is None."""
        resized = [] if small is None else [f"resized to {small}"]
        digest = hashlib.sha256("\n".join([*made_of, *resized]).encode()).hexdigest()[:12]
        cache = folder.parent / f"{folder.name}.{Path(stage['spec']).stem}.{small or side}.{digest}.npy"
        if not cache.is_file():
            sweep_parts(cache)
            if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
                mend = "run `python -m latentc_support.data` once, before torchrun"
                raise ValueError(f"{cache} is missing: {mend}")
            write_whole(cache, lambda file: encode(images, first, stage, file, skipped_of(cache), flip, crops, small))
        return cache

    arrays = {**images.arrays, **({"y": images.y} if "y" in fields else {})}
    cache = cache_of(None)
    found = Encoded(np.load(cache, mmap_mode="r"), picture, arrays, stage)
    if (skipped := skipped_of(cache)).is_file():
        for number, row in np.load(skipped):
            found.read[picture == number] = row
    # region resized
    pixels = side // fields["x"]["shape"][-1] if "x" in fields else 1
    small = {name: cache_of(f["shape"][-1] * pixels) for name, f in fields.items() if f.get("resized")}
    found.resized = {name: np.load(file, mmap_mode="r") for name, file in small.items()}
    # endregion
    # region encoded
    found.views, found.made_of = partial(views_of, images, flip=flip, crops=crops), identity
    # endregion
    return found


def skipped_of(cache: Path) -> Path:
    """The file beside a cache that lists images that could not be read: (number, sample in its place) i64[n, 2]."""
    return cache.with_suffix(".skipped.npy")


def pictures(settings: dict[str, Any], most: int) -> np.ndarray:
    """At most `most` images, drawn evenly over classes, in the range of decoded ones: f32[n, C, H, W]."""
    stage, images = settings["first_stage"], opened(settings)
    rows = drawn_rows(images.y, images.size, most)
    low, high = stage["field"]["range"]
    pixels = images.read(rows, images.pixels)[1].transpose(0, 3, 1, 2)
    return pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


@torch.no_grad()
def encode(
    images: Any,
    rows: np.ndarray,
    stage: dict[str, Any],
    path: Path,
    skipped: Path,
    flip: bool,
    crops: str,
    small: int | None = None,
) -> None:
    """Writes codes [P, views, ...] of the images of some rows as an .npy file, one image after another.

    `skipped`: a file that lists images that cannot be read, if they are to be skipped. `small`: the side in
    pixels to which images are resized first.
    """
    model = first_stage.load(stage)
    device = next(model.parameters()).device

    def codes_of(pixels: list[np.ndarray]) -> np.ndarray:
        x = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2)
        x = x.float().to(device) / 127.5 - 1
        if small is not None:
            x = torch.nn.functional.interpolate(x, size=(small, small), mode="bicubic")
        codes = first_stage.codes_from_images(model, x).cpu().numpy()
        return codes.reshape(len(pixels), -1, *codes.shape[1:])

    with open(path, "wb") as file:
        faults: list[str] = []
        others: list[tuple[int, int]] = []
        batch: list[np.ndarray] = []
        for number, row in enumerate(shown(rows, desc="first stage", unit="image")):
            try:
                (read,), (pixels,) = images.read(np.array([row]), lambda i: views_of(images, i, flip, crops))
                others += [(number, int(read))] if read != row else []
                batch.append(pixels)
            except ValueError as error:
                faults.append(str(error))
            if faults:  # reads the others only, to name all that cannot be read
                batch.clear()
            full = sum(pixels.size for pixels in batch) >= BATCH or number == len(rows) - 1
            if faults or not full:
                continue
            codes = codes_of(batch)
            batch.clear()
            if file.tell() == 0:
                described = {"descr": np.lib.format.dtype_to_descr(codes.dtype), "fortran_order": False}
                described["shape"] = (len(rows), *codes.shape[1:])
                np.lib.format.write_array_header_2_0(file, described)
            file.write(codes.tobytes())
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        mend = "replace or remove them, or leave them out with `--data.damaged skip`"
        raise ValueError(f"{'; '.join(faults[:5])}{more}: {mend}")
    skipped.unlink(missing_ok=True)
    if others:
        named = ", ".join(images.content(int(rows[number]))[0] for number, _ in others[:5])
        print(f"{len(others):,} of {len(rows):,} images cannot be read and are skipped: {named}", flush=True)
        with skipped.open("wb") as listing:
            np.save(listing, np.array(others))
