"""Audio: a WAV with all samples in sequence, or a PNG with their waveforms."""

import io
import wave

import numpy as np

from latentc_runtime.media.files import Array, Field, Writer, npz
from latentc_runtime.media.pixels import Pixels, arranged, grid, png, require_finite

WIDTH, HEIGHT = 256, 64  # pixels of a plotted channel
PAUSE = 0.25  # seconds between samples


def waves(samples: Array, field: Field) -> Array:
    """Samples as f64[B, C, T] in [-1, 1]."""
    require_finite(samples)
    low, high = field["range"]
    scaled = (arranged(samples, field, ("channel", "time")).astype(np.float64) - low) * (2 / (high - low)) - 1
    clipped: Array = np.clip(scaled, -1, 1)
    return clipped


def pictures(samples: Array, field: Field) -> Pixels:
    """The waveforms u8[B, HEIGHT C, WIDTH, 3], channels stacked: smallest and largest value per column."""
    sound = waves(samples, field)
    count, channels, length = sound.shape
    edges = np.linspace(0, length, min(WIDTH, length) + 1).astype(int)
    low, high = (reduce.reduceat(sound, edges[:-1], axis=-1) for reduce in (np.minimum, np.maximum))
    column = np.arange(WIDTH) * len(edges[:-1]) // WIDTH
    row = np.linspace(1, -1, HEIGHT)[:, None]  # the value at the middle of each row of pixels
    half = 1 / (HEIGHT - 1)
    inked = (low[..., None, column] - half <= row) & (row <= high[..., None, column] + half)
    plots = np.full((count, channels, HEIGHT, WIDTH, 3), 255, np.uint8)
    plots[:, :, HEIGHT // 2] = (220, 220, 220)
    plots[inked] = (31, 119, 180)
    return plots.reshape(count, channels * HEIGHT, WIDTH, 3)


def sheet(samples: Array, field: Field, columns: int) -> bytes:
    """A PNG of all waveforms."""
    return png(grid(pictures(samples, field), columns, gap=2))


def wav(samples: Array, field: Field, columns: int) -> bytes:
    """16-bit PCM of all samples in sequence."""
    sound, rate = waves(samples, field), round(field["rate"])
    pause = np.zeros((len(sound) - 1, sound.shape[1], round(PAUSE * rate)))
    parts = [part for pair in zip(sound, [*pause, None], strict=True) for part in pair if part is not None]
    pcm = np.round(np.concatenate(parts, axis=-1).T * 32767).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(pcm.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(pcm.tobytes())
    return file.getvalue()


FORMATS: dict[str, Writer] = {".wav": wav, ".png": sheet, ".npz": npz}
