"""Arrays without a medium: written unchanged, never shown as a picture."""

from latentc_runtime.media.files import Writer, npz

FORMATS: dict[str, Writer] = {".npz": npz}
