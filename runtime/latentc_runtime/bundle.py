"""A bundle's folder; opening it checks that every byte the engine reads is the one that the compiler wrote."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from latentc_runtime.errors import BundleError
from latentc_runtime.hashes import HashCache, write_whole
from latentc_runtime.manifest import FileEntry, Manifest, Reference
from latentc_runtime.manifest_json import AGAIN, bytes_from_manifest, manifest_from_bytes

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1 << 28  # bytes; a larger file is not a manifest

_NO_LINKS = "copy the bundle with its files in place of links (cp -rL)"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its resolved folder, its manifest, and the identity of the manifest file."""

    folder: Path
    manifest: Manifest
    origin: tuple[int, int, int]

    def path(self, name: str) -> Path:
        """The path of a file of `manifest.files`."""
        return self.folder / name

    def check_same(self) -> None:
        """BundleError E0604 if the folder has been replaced by another bundle since it was opened."""
        try:
            same = _origin(self.folder) == self.origin
        except OSError:
            same = False
        if not same:
            message = f"the bundle {self.folder} has been replaced or removed since it was opened"
            raise BundleError("E0604", message, "load it again")

    def external_files(self) -> dict[str, Path]:
        """{name in the ONNX files: weight file}, with references at their own location.

        Empty if there are no references: then engines find the files themselves. With references an engine needs to be
        given all files.
        """
        references = {name: Path(r.location) for name, r in self.manifest.references.items()}
        inside = {name: self.path(name) for name in self.manifest.files if name.startswith("weights/")}
        return {**inside, **references} if references else {}


def open_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Open the bundle in the folder `path`; with `verify`, compare the sha256 of every file.

    Hashes of large files are cached by inode, size and times in the user's cache folder, so opening a bundle again is
    cheap; corruption below the file system is only detected at the first opening. Raises BundleError: E0601 no bundle,
    E0602 damaged manifest, E0603 unknown format, E0604 missing or damaged file, E0605 a name that leaves the bundle,
    E0611 a referenced file that is missing or has changed.
    """
    if not isinstance(path, str | os.PathLike):
        raise BundleError(
            "E0601", f"a bundle is given by the path of its folder, not {path!r}", "give the bundle's folder"
        )
    try:
        return _open(Path(path), verify)
    except OSError as error:
        raise _unreadable(str(path), error, "E0604") from None


def _open(folder: Path, verify: bool) -> Bundle:
    if not folder.exists():
        raise BundleError("E0601", f"no bundle at {folder}", "compile one with `latentc compile`")
    if not folder.is_dir() or not (folder / MANIFEST).is_file():
        raise BundleError("E0601", f"{folder} is not a bundle: no {MANIFEST} in it", "give the bundle's folder")
    folder = folder.resolve()
    origin = _origin(folder)
    bundle = Bundle(folder, manifest_from_bytes(_manifest_text(folder)), origin)
    manifest = bundle.manifest
    for name in (*manifest.files, *manifest.references):
        check_name(name)
    cache = HashCache()
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry, cache if verify else None)
    for name, reference in manifest.references.items():
        location = Path(reference.location)
        where = f"the weight file {location} that the bundle refers to (as {name})"
        mend = "put the file back, or compile the bundle again without `--by-reference`"
        if not location.is_absolute():
            raise BundleError("E0605", f"{where} is not an absolute path", AGAIN)
        _check_content(location, reference, where, cache if verify else None, "E0611", mend)
    cache.save()
    return bundle


def located(bundle: Bundle) -> Manifest:
    """The bundle's manifest, with the paths of tokenizers in place of their names in the bundle."""

    def there(name: str | None) -> str | None:
        return None if name is None else str(bundle.path(name))

    manifest = bundle.manifest
    conditions = tuple(replace(c, tokenizer=there(c.tokenizer)) for c in manifest.conditions)
    programs = []
    for program in manifest.programs:
        outputs = (replace(o, output=replace(o.output, tokenizer=there(o.output.tokenizer))) for o in program.outputs)
        programs.append(replace(program, outputs=tuple(outputs)))
    return replace(manifest, conditions=conditions, programs=tuple(programs))


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write `manifest` into `folder`, never visible half-written. BundleError if it contradicts itself."""
    for name in (*manifest.files, *manifest.references):
        check_name(name)
    write_whole(Path(folder) / MANIFEST, bytes_from_manifest(manifest))


def check_name(name: str) -> None:
    """BundleError E0605 unless `name` is a plain relative path with `/`, such as "weights/a.safetensors"."""
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and name.isprintable()
    if not plain or "\\" in name or ":" in name or name == MANIFEST:
        raise BundleError("E0605", f"manifest.json: {json.dumps(name)} is not the name of a file in the bundle", AGAIN)


def _origin(folder: Path) -> tuple[int, int, int]:
    status = (folder / MANIFEST).stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _manifest_text(folder: Path) -> bytes:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleError("E0605", f"{path} is a symbolic link", _NO_LINKS)
    if path.stat().st_size > LARGEST_MANIFEST:
        raise BundleError("E0602", f"{path} is too large to be a manifest", AGAIN)
    return path.read_bytes()


def _check_file(folder: Path, name: str, entry: FileEntry, cache: HashCache | None) -> None:
    # Engines refuse weights behind links, and a link could lead out of the bundle.
    path = folder
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise BundleError("E0605", f"{name}: {path} is a symbolic link", _NO_LINKS)
    _check_content(path, entry, f"the bundle's file {name}", cache, "E0604", AGAIN)


def _check_content(
    path: Path, entry: FileEntry | Reference, where: str, cache: HashCache | None, code: str, mend: str
) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(code, f"{where} is not a file", mend)
        if status.st_size != entry.size:
            raise BundleError(code, f"{where} has {status.st_size} bytes instead of {entry.size}", mend)
        if cache is not None and cache.hash(path).sha256 != entry.sha256:
            raise BundleError(code, f"{where} is damaged: its sha256 differs from the manifest's", mend)
    except FileNotFoundError:
        raise BundleError(code, f"{where} is missing", mend) from None
    except OSError as error:
        raise _unreadable(where, error, code) from None


def _unreadable(where: str, error: OSError, code: str) -> BundleError:
    return BundleError(code, f"{where} cannot be read: {error.strerror or error}", "check the file's permissions")
