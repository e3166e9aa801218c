"""Arrays of no medium: written as they are, never shown as a picture."""

from latentc_runtime.media.files import Writer, npz

FORMATS: dict[str, Writer] = {".npz": npz}
