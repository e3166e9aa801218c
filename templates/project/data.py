"""Training data: an image folder, an .npz file or scikit-learn's digits; a first stage's latents are cached.

    python data.py        # encodes the images, where there is a first stage, and says what the data is

Samples come as f32 [C, H, W] in [-1, 1] (or scaled latents), or as tokens i64 [T], with a label.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def generator(*key: int) -> torch.Generator:
    """A generator on the CPU that depends on the key alone."""
    state = np.random.SeedSequence([int(k) for k in key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


class Arrays(Dataset):
    """Samples that are arrays, in memory or mapped from a file."""

    in_memory = True

    def __init__(self, x: np.ndarray, y: np.ndarray, name: str, flip: bool):
        self.x, self.y, self.name, self.flip = x, y.astype(np.int64), name, flip
        self.size = len(x)

    def __getitem__(self, item: tuple[np.ndarray, np.ndarray, int]) -> dict[str, torch.Tensor]:
        """A batch: rows `index`, of which `flipped` are mirrored."""
        index, flipped, _ = item
        x = self.x[index]
        if x.dtype == np.uint8 and x.ndim == 4:
            x = x.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        x = x.astype(np.int64 if self.name == "tokens" else np.float32)
        if self.flip:
            x = np.where(flipped[:, None, None, None], x[..., ::-1], x)
        return {self.name: torch.from_numpy(np.ascontiguousarray(x)), "y": torch.from_numpy(self.y[index])}


class Latents(Dataset):
    """Cached latents: mean and deviation [N, views, 2, C, h, w]; the second view is of the mirrored image."""

    in_memory = False

    def __init__(self, file: Path, labels: np.ndarray, scale: float):
        self.moments = np.load(file, mmap_mode="r")
        self.y, self.scale, self.name = labels.astype(np.int64), scale, "x"
        self.size, self.flip = len(self.moments), self.moments.shape[1] == 2

    def __getitem__(self, item: tuple[np.ndarray, np.ndarray, int]) -> dict[str, torch.Tensor]:
        index, flipped, key = item
        view = flipped.astype(np.int64) if self.flip else np.zeros_like(index)
        moments = torch.from_numpy(self.moments[index, view].astype(np.float32))
        mean, std = moments.unbind(1)
        noise = torch.randn(mean.shape, generator=generator(key, 1))
        return {"x": (mean + std * noise) * self.scale, "y": torch.from_numpy(self.y[index])}


def images_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in IMAGES]


class ImageFolder(Dataset):
    """One folder of images a class; images are cropped to the middle square and resized."""

    in_memory = False

    def __init__(self, path: str, size: int, flip: bool, channels: int = 3, classes: int | None = None):
        root = Path(path)
        folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        if not folders:
            raise SystemExit(f"data.path: {root} is no folder that holds one folder a class")
        if classes is not None and len(folders) != classes:
            raise SystemExit(f"data.path: {root} has {len(folders)} classes, and the model has {classes}")
        self.files = [(file, i) for i, p in enumerate(folders) for file in images_in(p)]
        if not self.files:
            raise SystemExit(f"data.path: {root} holds no images")
        self.y = np.array([label for _, label in self.files], dtype=np.int64)
        self.side, self.flip, self.mode, self.name = size, flip, "L" if channels == 1 else "RGB", "x"
        self.size = len(self.files)

    def image(self, index: int) -> np.ndarray:
        """u8 [H, W, C]."""
        from PIL import Image

        with Image.open(self.files[index][0]) as file:
            picture = file.convert(self.mode)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((self.side, self.side), Image.Resampling.BICUBIC, box)
        return np.asarray(picture).reshape(self.side, self.side, -1)

    def __getitem__(self, item: tuple[np.ndarray, np.ndarray, int]) -> dict[str, torch.Tensor]:
        index, flipped, _ = item
        x = np.stack([self.image(int(i)) for i in index]).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        if self.flip:
            x = np.where(flipped[:, None, None, None], x[..., ::-1], x)
        return {"x": torch.from_numpy(np.ascontiguousarray(x)), "y": torch.from_numpy(self.y[index])}


def digits(tokens: bool, part: str) -> Arrays:
    """scikit-learn's 8 x 8 digits: as images in [-1, 1], or a token (its grey level) a pixel.

    Part "train" is 898 of the 1,797 in a fixed random order (RandomState's numbers never change): the others
    are kept for judging what was generated.
    """
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    rows = np.random.RandomState(0).permutation(len(labels))[: 898 if part == "train" else None]
    if tokens:
        return Arrays(levels[rows].astype(np.int64), labels[rows], "tokens", False)
    return Arrays((levels[rows].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32), labels[rows], "x", False)


def npz(data: dict[str, Any]) -> Arrays:
    """Arrays of an .npz file, checked against what the model takes."""
    file = Path(data["path"])
    if not file.is_file():
        raise SystemExit(f"data.path: there is no file {file}")
    with np.load(file) as arrays:
        keys = [data["keys"].get(name, name) for name in ("x", "y")]
        for key in keys:
            if key not in arrays:
                raise SystemExit(f"data.keys: {file} has no array {key!r}; it has {', '.join(arrays.files)}")
        x, y = (arrays[key] for key in keys)
    if len(x) != len(y):
        raise SystemExit(f"{file}: {len(x)} samples but {len(y)} labels")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < data["classes"]:
        raise SystemExit(
            f"{file}: labels are {y.min()} to {y.max()}; the model has {data['classes']} classes"
        )
    return Arrays(x, y, "tokens" if data.get("tokens") else "x", bool(data.get("horizontal_flip")))


def open_data(config: dict[str, Any]) -> Any:
    """The dataset of the settings. SystemExit where it is missing or does not fit the model."""
    data = config["data"]
    stage = data.get("first_stage")
    if stage and data["kind"] == "image_folder":
        return first_stage_data(data, stage)
    match data["kind"]:
        case "digits":
            found = digits(data.get("as") == "tokens", data["part"])
        case "npz":
            found = npz(data)
        case "image_folder":
            channels, side, _ = data["shape"]
            flip = data.get("horizontal_flip", True)
            return ImageFolder(data["path"], side, flip, channels, data["classes"])
        case kind:
            raise SystemExit(f"data.kind: {kind} is unknown")
    if found.size == 0:
        raise SystemExit("the data is empty")
    sample = next(iter(found[(np.array([0]), np.array([False]), 0)].values())).shape[1:]
    wanted = data["shape"] if found.name == "x" else [int(np.prod(data["tokens"]["grid"]))]
    if list(sample) != list(wanted):
        raise SystemExit(f"data: samples are {list(sample)}, and the model takes {list(wanted)}")
    return found


# ---- order


def batches(
    dataset: Any, config: dict[str, Any], start: int, rank: int, world: int
) -> Iterator[dict[str, torch.Tensor]]:
    """This process's part of every batch from step `start` on; a step's samples depend on seed and step."""
    train = config["train"]
    size = train["batch_size"]
    if size > dataset.size:
        raise SystemExit(f"batch_size: {size} samples a step, but the data has {dataset.size}")
    workers = 0 if dataset.in_memory else train["workers"]
    loader = DataLoader(
        dataset,
        sampler=Order(dataset, size, train["seed"], start, rank, world),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # else it would draw from the generator that dropout draws from
    )
    return iter(loader)


class Order:
    """Endless (rows, which are mirrored, key): each epoch a permutation less its incomplete last batch."""

    def __init__(self, dataset: Any, size: int, seed: int, start: int, rank: int, world: int):
        self.count, self.flip, self.size = dataset.size, dataset.flip, size
        self.seed, self.start, self.rank, self.world = seed, start, rank, world

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        step, per_epoch, epoch, permutation = self.start, self.count // self.size, -1, None
        while True:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                permutation = torch.randperm(self.count, generator=generator(self.seed, 2, epoch)).numpy()
            at = step % per_epoch * self.size
            rows = permutation[at : at + self.size][self.rank :: self.world]
            coins = generator(self.seed, 3, step, self.rank)
            mirrored = torch.rand(len(rows), generator=coins).numpy() < 0.5
            yield rows, mirrored, int(torch.randint(1 << 62, (), generator=coins))
            step += 1


# ---- first stage


def first_stage_data(data: dict[str, Any], stage: dict[str, Any]) -> Any:
    """Latents or tokens of an image folder, encoded once into a cache beside it.

    The cache is named by what it was made of: other images, or another first stage, are encoded anew.
    """
    folder = Path(data["path"])
    if data.get("tokens"):
        side = data["tokens"]["grid"][0] * stage["factor"]
    else:
        side = data["shape"][1] * stage["factor"]
    images = ImageFolder(data["path"], side, False, 3, data["classes"])
    flip = bool(data.get("horizontal_flip", True))
    made_of = [
        str(Path(stage["path"]).resolve()),
        str(flip),
        *(str(f.relative_to(folder)) for f, _ in images.files),
    ]
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    cache = folder.parent / f"{folder.name}.{stage['kind']}.{side}.{digest}.npy"
    if not cache.is_file():
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise SystemExit(f"{cache} is missing: run `python data.py` once, before torchrun")
        encode(images, stage, cache, flip)
    if data.get("tokens"):
        tokens = np.load(cache, mmap_mode="r")
        return Arrays(tokens, images.y, "tokens", False)
    return Latents(cache, images.y, stage["scale"])


def first_stage(stage: dict[str, Any]) -> torch.nn.Module:
    """The autoencoder of the settings, by diffusers. SystemExit where it is not there."""
    try:
        import diffusers
    except ImportError:
        raise SystemExit("a first stage needs diffusers: pip install diffusers") from None
    cls = diffusers.AutoencoderKL if stage["kind"] == "autoencoder_kl" else diffusers.VQModel
    if not Path(stage["path"]).is_dir():
        raise SystemExit(f"data.first_stage.path: {stage['path']} is no folder of a diffusers {cls.__name__}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cls.from_pretrained(stage["path"], local_files_only=True).eval().requires_grad_(False).to(device)


@torch.no_grad()
def encode(images: ImageFolder, stage: dict[str, Any], cache: Path, flip: bool, size: int = 32) -> None:
    """Writes the cache: moments f16 [N, views, 2, C, h, w] of latents, or tokens i32 [N, T]."""
    from tqdm import tqdm

    model = first_stage(stage)
    device = next(model.parameters()).device
    unfinished = cache.with_suffix(".unfinished.npy")
    out = None
    for at in tqdm(range(0, images.size, size), desc="first stage", unit="batch", disable=None):
        index = np.arange(at, min(at + size, images.size))
        x = images[(index, np.zeros(len(index), bool), 0)]["x"].to(device)
        if stage["kind"] == "autoencoder_kl":
            views = [x, x.flip(-1)] if flip else [x]
            posteriors = [model.encode(v).latent_dist for v in views]
            rows = torch.stack([torch.stack([p.mean, p.std], 1) for p in posteriors], 1).half().cpu().numpy()
        else:
            latents = model.encode(x).latents
            rows = model.quantize(latents)[2][2].reshape(len(index), -1).int().cpu().numpy()
        if out is None:
            out = np.lib.format.open_memmap(unfinished, "w+", rows.dtype, (images.size, *rows.shape[1:]))
        out[index] = rows
    out.flush()
    unfinished.replace(cache)


@torch.no_grad()
def pictures(samples: torch.Tensor, config: dict[str, Any]) -> np.ndarray:
    """Samples [B, C, H, W] or tokens [B, T] as u8 [B, H, W, C]; latents are decoded by the first stage."""
    data = config["data"]
    stage = data.get("first_stage")
    if stage and stage["kind"] == "autoencoder_kl":
        model = first_stage(stage)
        device = next(model.parameters()).device
        samples = torch.cat([model.decode(z[None].to(device) / stage["scale"]).sample for z in samples])
    elif stage:
        raise SystemExit("tokens of a first stage are decoded by its own code: take them with --raw")
    elif data.get("tokens"):
        rows, columns = data["tokens"]["grid"]
        levels = samples.double() / (data["tokens"]["vocabulary"] - 1)
        samples = levels.reshape(-1, 1, rows, columns) * 2 - 1
    scaled = ((samples.double() + 1) * 127.5).round().clamp(0, 255).byte()
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


if __name__ == "__main__":
    from config import load_config

    found = open_data(load_config())
    print(f"{found.size} samples")
