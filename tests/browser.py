"""Pages that tests open in Chromium."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def look_at(file: Path, look: Callable[[Any], Awaitable[None]], scheme: str) -> list[str]:
    """Opens a file in a tab, waits for `look(tab)`, and returns the addresses that the page asked for.

    Fails the test if a script of the page fails or writes to the console. Playwright now and then crashes a process
    that has run thousands of tests, as its driver ends: so it runs in a fork, which may crash twice.
    """
    async_api = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("there is no browser")
    faults: list[str] = []
    asked: list[str] = []

    async def opened() -> None:
        async with async_api.async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = await chromium.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 900})
            tab.on("pageerror", lambda error: faults.append(str(error)))
            tab.on("console", lambda message: faults.append(message.text))
            tab.on("request", lambda request: asked.append(request.url))
            await tab.goto(file.as_uri())
            await look(tab)
            await chromium.close()

    for _ in range(3):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            why = ""
            try:
                asyncio.run(opened())
            except BaseException:
                why = traceback.format_exc()
            os.write(write, json.dumps([why, faults, asked]).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            said = answer.read()
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
    assert status == 0, f"the browser's process ended with status {status}"
    why, faults, asked = json.loads(said)
    assert not why, why
    assert faults == []
    return asked
