"""The cache of plans: what its key holds, and that damage, a full disk and other processes do no harm."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from latentc.export import plan_cache
from latentc.export.plan_cache import cache_key, folder_of, keep, take


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(plan_cache.LIMIT, raising=False)
    (tmp_path / "plan").write_bytes(b"\x00plan\n" * 1000)
    return folder_of("plans")


def test_what_was_kept_is_taken(cache: Path, tmp_path: Path) -> None:
    assert take("k", tmp_path / "out") is None and not (tmp_path / "out").exists()
    keep("k", tmp_path / "plan", {"fused": 2})
    assert take("k", tmp_path / "out") == {"fused": 2}
    assert (tmp_path / "out").read_bytes() == (tmp_path / "plan").read_bytes()
    assert [p.name for p in cache.iterdir()] == ["k"]


def test_the_key_is_of_every_part() -> None:
    parts = {"graph": "a", "flags": [1, 2], "version": None}
    keys = {cache_key(parts), *(cache_key({**parts, name: "other"}) for name in parts)}
    assert len(keys) == 4 and cache_key(dict(reversed(parts.items()))) == cache_key(parts)


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "header", "empty", "text"])
def test_a_damaged_entry_is_dropped(cache: Path, tmp_path: Path, damage: str) -> None:
    keep("k", tmp_path / "plan", {})
    data = (cache / "k").read_bytes()
    changed = {
        "flipped": data[:-9] + b"X" + data[-8:],
        "short": data[:-1],
        "long": data + b"x",
        "header": data[1:],
        "empty": b"",
        "text": b'{"answer": 3}\n',
    }
    (cache / "k").write_bytes(changed[damage])
    assert take("k", tmp_path / "out") is None
    assert not (cache / "k").exists() and not (tmp_path / "out").exists()
    keep("k", tmp_path / "plan", {})
    assert take("k", tmp_path / "out") == {}


def test_the_longest_unused_go_first(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plan_cache.LIMIT, "20e-6")  # three of 6 kB
    for age, key in enumerate("abc"):
        keep(key, tmp_path / "plan", {})
        os.utime(cache / key, (1000 + age, 1000 + age))
    assert take("a", tmp_path / "out") is not None  # used just now
    (cache / ".half").touch()
    os.utime(cache / ".half", (1000, 1000))
    (cache / ".being-written").touch()
    keep("d", tmp_path / "plan", {})
    assert {p.name for p in cache.iterdir()} == {"a", "c", "d", ".being-written"}
    monkeypatch.setenv(plan_cache.LIMIT, "1e-6")
    keep("e", tmp_path / "plan", {})  # larger than the whole cache
    assert not (cache / "e").exists()
    monkeypatch.setenv(plan_cache.LIMIT, "0")
    assert take("a", tmp_path / "out") is None and (cache / "a").exists()
    monkeypatch.setenv(plan_cache.LIMIT, "lots")
    assert plan_cache.limit() == 20e9


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "file"))
    keep("k", tmp_path / "plan", {})
    assert take("k", tmp_path / "out") is None


def _write(folder: Path, number: int, until: float) -> None:
    plan = folder / f"plan-{number}"
    plan.write_bytes(bytes([number]) * 200_000)
    while time.time() < until:
        keep("k", plan, {"number": number})


def test_writers_at_once_give_whole_plans(tmp_path: Path) -> None:
    until = time.time() + 1.5
    writers = [multiprocessing.Process(target=_write, args=(tmp_path, n, until)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while time.time() < until:
        answer = take("k", tmp_path / "out")
        if answer is not None:
            assert (tmp_path / "out").read_bytes() == bytes([answer["number"]]) * 200_000
            seen.add(answer["number"])
    for writer in writers:
        writer.join()
    assert seen == {1, 2}
    assert [p.name for p in folder_of("plans").iterdir()] == ["k"]
