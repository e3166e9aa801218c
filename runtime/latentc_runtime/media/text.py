"""Text: a file with one line per sample."""

from latentc_runtime.media.files import Array, Field, Writer, npz


def lines(samples: Array, field: Field) -> list[str]:
    """Each sample as text: characters of the alphabet if there is one, UTF-8 bytes up to 256 classes, else numbers."""
    if samples.size and not 0 <= samples.min() <= samples.max() < field["classes"]:
        raise ValueError(f"a token is outside 0 to {field['classes'] - 1}")
    if alphabet := field.get("alphabet"):
        return ["".join(alphabet[token] for token in sample) for sample in samples.tolist()]
    if field["classes"] <= 256:
        return [bytes(sample).decode(errors="replace") for sample in samples.tolist()]
    return [" ".join(map(str, sample)) for sample in samples.tolist()]


def txt(samples: Array, field: Field, columns: int) -> bytes:
    """A line per sample."""
    return "".join(f"{line}\n" for line in lines(samples, field)).encode()


FORMATS: dict[str, Writer] = {".txt": txt, ".npz": npz}
