"""Hashes are remembered, and never for a file that may have changed since."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest
import tiny_bundles as tiny

from latentc_runtime import BundleError, hashes
from latentc_runtime.bundle import open_bundle, write_manifest
from latentc_runtime.hashes import HashCache, cache_folder, hash_file

REAL = hashes.hash_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sha256.json"


@pytest.fixture
def large(tmp_path):
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(hashes.SMALLEST))
    return file


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to hash them; every file counts as old enough to remember."""
    names = []
    monkeypatch.setattr(hashes, "settled", lambda status: True)
    monkeypatch.setattr(hashes, "hash_file", lambda path: names.append(path.name) or REAL(path))
    return names


def hash_once(path):
    cache = HashCache()
    entry = cache.hash(path)
    cache.save()
    return entry


def test_a_large_file_is_hashed_once(large, hashed, tmp_path):
    small = tmp_path / "small.bin"
    small.write_bytes(b"x")
    for _ in range(2):
        assert hash_once(large) == hash_file(large)
        hash_once(small)
    assert hashed == ["large.bin", "small.bin", "small.bin"]


def test_a_change_is_seen_whatever_the_modification_time_says(large, hashed):
    before, status = hash_once(large), large.stat()
    with large.open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01")
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_once(large) == REAL(large) != before


def test_a_file_just_written_is_not_remembered(large, cache):
    os.utime(large)
    hash_once(large)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("mtime", "age", "safe"), [(5, 1.0, False), (5, 3.0, True), (5.25, 0.05, False), (5.25, 1, True)]
)
def test_when_a_file_is_settled(mtime, age, safe, monkeypatch):
    class Status:
        st_mtime, st_mtime_ns, st_ctime = mtime, int(mtime * 1e9), mtime

    monkeypatch.setattr(time, "time", lambda: mtime + age)
    assert hashes.settled(Status) is safe


@pytest.mark.parametrize("text", [b"", b"[]", b'{"a": 3}', b"[" * 100_000, b"\xff\xfe", b'{"cut": "off'])
def test_a_damaged_cache_is_an_empty_one(text, large, hashed, cache):
    hash_once(large)
    cache.write_bytes(text)
    assert hash_once(large) == REAL(large)
    assert hashed == ["large.bin"] * 2
    hash_once(large)
    assert len(hashed) == 2, "and is whole again"


def test_a_cache_that_cannot_be_written_is_none(large, hashed, tmp_path):
    (tmp_path / "cache").write_text("a file in the folder's place")
    assert hash_once(large) == hash_once(large) == REAL(large)


@pytest.mark.parametrize("off", ["", "off"])
def test_it_can_be_switched_off(off, large, hashed, monkeypatch, tmp_path):
    monkeypatch.setenv("LATENTC_CACHE", off)
    monkeypatch.chdir(tmp_path)
    hash_once(large)
    hash_once(large)
    assert hashed == ["large.bin"] * 2
    assert cache_folder() is None and sorted(p.name for p in tmp_path.iterdir()) == ["large.bin"]


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.delenv("LATENTC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "latentc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "latentc"


def test_several_writers_leave_a_whole_file(large, hashed, cache, tmp_path):
    files = [tmp_path / f"{i}.bin" for i in range(8)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * hashes.SMALLEST)
    threads = [threading.Thread(target=hash_once, args=[file]) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = json.loads(cache.read_text())
    assert entries and set(entries.values()) <= {REAL(file).sha256 for file in files}
    one, other = HashCache(), HashCache()
    one.hash(files[0])
    other.hash(files[1])
    one.save()
    other.save()
    assert {REAL(f).sha256 for f in files[:2]} <= set(json.loads(cache.read_text()).values())
    assert [p.name for p in cache.parent.iterdir()] == ["sha256.json"]


def test_a_bundle_is_opened_by_remembered_hashes(hashed, tmp_path):
    path = tiny.loop_bundle(tmp_path / "bundle")
    weights = path / "weights" / "large.bin"
    weights.write_bytes(bytes(hashes.SMALLEST))
    manifest = open_bundle(path).manifest
    write_manifest(path, replace(manifest, files=manifest.files | {"weights/large.bin": REAL(weights)}))
    hashed.clear()
    open_bundle(path)
    open_bundle(path)
    assert hashed.count("large.bin") == 1 and hashed.count("sample.onnx") == 2
    weights.write_bytes(bytes(hashes.SMALLEST - 1) + b"\x01")
    with pytest.raises(BundleError, match=r"large.bin is damaged"):
        open_bundle(path)
