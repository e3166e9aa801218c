"""WAV files: a stretch of each, cut at random, or padded with silence."""

import wave
from collections.abc import Callable
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, class_folders, folder_names


class Sounds:
    """The fields `x` and `y` of a folder of sounds."""

    in_memory = False

    def __init__(self, path: str, classes: int, fields: dict[str, Any]):
        self.files, self.y = class_folders(path, classes, "WAV files", {".wav"})
        self.fields, self.size = fields, len(self.files)
        self.labels: Array | None = self.y if "y" in fields else None

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Stretches as the field `x` declares them, and labels; from a random place if `rng` is given."""
        field = self.fields["x"]
        sizes = dict(zip(field["axes"], field["shape"], strict=True))
        low, high = field["range"]
        x = np.stack([self.stretch(int(i), sizes["time"], sizes.get("channel", 1), rng) for i in index])
        x = (x + 1) * np.float32((high - low) / 2) + np.float32(low)
        x = x if field["axes"][-1:] == ["time"] else x.swapaxes(1, 2)
        x = x if "channel" in sizes else x[:, 0]
        return {"x": x, "y": self.y[index]} if "y" in self.fields else {"x": x}

    def stretch(self, index: int, length: int, channels: int, rng: np.random.Generator | None) -> Array:
        """f32[C, T] in [-1, 1] of one file; several channels are averaged if the model takes one."""

        def start(spare: int) -> int:
            return int(rng.integers(spare + 1)) if rng is not None else spare // 2

        return sound_from_file(self.files[index], self.fields["x"]["rate"], length, channels, start)


def sound_from_file(
    path: Any, rate: float, length: int, channels: int, start: Callable[[int], int] = lambda spare: 0
) -> Array:
    """f32[C, T] in [-1, 1], `length` samples of a PCM WAV file, padded with silence.

    They begin at `start(spare)`, `spare` being how many more the file has. Several channels are averaged if
    `channels` is 1. Raises ValueError.
    """
    try:
        with wave.open(str(path)) as file:
            if file.getframerate() != round(rate):
                raise ValueError(f"{path} has {file.getframerate()} samples per second, not {round(rate)}")
            file.setpos(start(max(file.getnframes() - length, 0)))
            count, width = file.getnchannels(), file.getsampwidth()
            sound = pcm(file.readframes(length), width).reshape(-1, count).T
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a PCM WAV file: {error}") from None
    if count != channels:
        if channels != 1:
            raise ValueError(f"{path} has {count} channels, but the model takes {channels}")
        sound = sound.mean(axis=0, keepdims=True)
    return np.pad(sound, ((0, 0), (0, length - sound.shape[1])))


def pcm(data: bytes, width: int) -> Array:
    """Samples of `width` bytes as f32 in [-1, 1)."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if width == 3:  # as the high bytes of 32 bits
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = padded.tobytes(), 4
    values = np.frombuffer(data, {2: "<i2", 4: "<i4"}[width])
    return (values / float(1 << 8 * width - 1)).astype(np.float32)


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the folders."""
    return folder_names(settings["path"])


def open_dataset(settings: dict[str, Any]) -> Sounds:
    """The sounds that `settings` describe. Raises ValueError."""
    return Sounds(settings["path"], settings["classes"], settings["fields"])
