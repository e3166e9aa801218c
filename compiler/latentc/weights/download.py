"""Files of web servers in the user's cache: resumed, verified, and visible only when they are whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from latentc.diagnostics import DiagnosticError, printable
from latentc.weights.hub import asking
from latentc_runtime.hashes import cache_folder, hash_file, identity, write_whole

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".npz", ".safetensors")
_MEND = "try again: it goes on where it stopped; HF_HUB_OFFLINE=1 uses only what is cached"


def place_of(name: str, url: str) -> Path:
    """The file in the user's cache that a download is kept in, which may not exist. DiagnosticError E0428."""
    cache = cache_folder()
    if cache is None:
        mend = f"set LATENTC_CACHE to a folder, or download {url} and give the file"
        raise DiagnosticError.of("E0428", f"there is no place for {name}: LATENTC_CACHE is off", help=mend)
    suffix = PurePosixPath(urlsplit(url).path).suffix
    return cache / "official" / f"{name}{suffix if suffix in _SUFFIXES else ''}"


def fetched(name: str, url: str, sha256: str | None = None, about: str = "") -> Path:
    """The file at an address, downloaded unless it is in the user's cache.

    `name` is what messages call it and the cache files it under; `about` is added to the line on stderr that says what
    is downloaded. An interrupted download goes on at the next call. `sha256`: its digest or the first digits of it;
    None: that of the first download is recorded, and others are compared with it. Raises DiagnosticError E0428 (the
    server, the disk, another content; then nothing is left) and E0706.
    """
    file = place_of(name, url)
    if not file.is_file():
        with asking(f"downloading {name} from {url}", "E0428", _MEND) as hub:
            from filelock import FileLock

            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock"):
                if not file.is_file():  # another process may have downloaded it meanwhile
                    _download(hub, file, name, url, sha256, about)
    return verified(file, name, sha256)


def verified(file: Path, name: str, sha256: str | None = None) -> Path:
    """A file whose content is what `sha256` or the record of its first download says. DiagnosticError E0428.

    It is hashed when it is new or has changed since, else its size and times are compared.
    """
    cache, status = cache_folder(), file.stat()
    record = None if cache is None else cache / "official" / f"{name}.json"
    known = _recorded(record)
    same = known.get("identity") == identity(status)
    digest = known["sha256"] if same else hash_file(file).sha256
    expected = sha256 or known.get("sha256", "")
    if not digest.startswith(expected):
        raise _other_content(name, digest, expected, f"delete it, and it is downloaded again: {file}")
    if record is not None and not same:
        _record(record, digest, identity(status))
    return file


def _download(hub: Any, file: Path, name: str, url: str, sha256: str | None, about: str) -> None:
    from huggingface_hub.file_download import http_get

    part, mark = file.with_name(f"{file.name}.part"), file.with_name(f"{file.name}.part.json")
    etag, size = _head(hub, url)
    version = {"url": url, "etag": etag}
    if _recorded(mark) != version:
        part.unlink(missing_ok=True)  # of another version of the file
    write_whole(mark, json.dumps(version).encode())
    with part.open("ab") as opened:
        if size is not None and opened.tell() > size:
            opened.truncate(0)
        done = opened.seek(0, os.SEEK_END)
        free = shutil.disk_usage(file.parent).free
        if size is not None and size - done > free:
            mend = "make room, or set LATENTC_CACHE to a folder on another disk"
            message = f"{name} has {_amount(size - done)} to download, but {file.parent} has room for {_amount(free)}"
            raise DiagnosticError.of("E0428", message, help=mend)
        facts = ", ".join(filter(None, (_amount(size), about, f"continued after {_amount(done)}" if done else "")))
        _say(f"{name}: downloading {url}" + (f" ({facts})" if facts else ""))
        headers = {"Accept-Encoding": "identity", **({"If-Range": f'"{etag}"'} if etag and done else {})}
        http_get(url, opened, resume_size=done, headers=headers, expected_size=size, displayed_filename=name)
        opened.flush()
        os.fsync(opened.fileno())
    digest, known = hash_file(part).sha256, _recorded(file.with_name(f"{name}.json")).get("sha256", "")
    with part.open("rb") as content:
        is_page = content.read(64).lstrip()[:1] == b"<"
    if is_page or not digest.startswith(sha256 or known):
        part.unlink()
        mark.unlink()
        if is_page:
            mend = "open the address in a browser: it may have moved, or ask for a confirmation"
            raise DiagnosticError.of("E0428", f"{url} is a web page, not the weights of {name}", help=mend)
        mend = "try again; if it happens again, its authors replaced the file"
        if not sha256:
            mend += f": delete {file.with_name(f'{name}.json')} to accept it"
        raise _other_content(name, digest, sha256 or known, mend)
    part.replace(file)
    mark.unlink()
    _record(file.with_name(f"{name}.json"), digest, identity(file.stat()))
    recorded = "as before" if known else "recorded, to compare later downloads with: none is published"
    _say(f"{name}: sha256 {digest}, {'as published' if sha256 else recorded}")


def _head(hub: Any, url: str) -> tuple[str | None, int | None]:
    """(ETag, size) of what is at an address, as far as the server says; a weak ETag is none."""
    try:
        answer = hub.utils.http_backoff("HEAD", url, max_retries=0, headers={"Accept-Encoding": "identity"})
        answer.raise_for_status()
    except hub.errors.OfflineModeIsEnabled:
        raise
    except Exception:  # servers need not answer HEAD; the download itself reports what is wrong
        return None, None
    etag, size = answer.headers.get("ETag", ""), answer.headers.get("Content-Length", "")
    return etag.strip('"') if etag.startswith('"') else None, int(size) if size.isdigit() else None


def _recorded(path: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _record(path: Path, digest: str, state: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"sha256": digest, "identity": state}).encode())


def _other_content(name: str, digest: str, expected: str, mend: str) -> DiagnosticError:
    message = f"{name} is damaged or another file: its sha256 is {digest}, not {expected}"
    return DiagnosticError.of("E0428", message, help=mend)


def _amount(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{printable(text)}\n")
