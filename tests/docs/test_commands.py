"""Every command in README and docs runs, in the order of its page, in a folder that has what the page speaks of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import ROOT, commands, execute
from own_packages import fresh
from pages import GIVEN

from latentc.cli import app

PAGES = [page for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]) if commands(page)]


__all__ = ["fresh"]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    GIVEN.get(str(page.relative_to(ROOT)), lambda folder: None)(tmp_path)
    for command in commands(page):
        capsys.readouterr()
        fault = execute(command, tmp_path)
        assert fault is None, f"{command}\n{fault}\n{capsys.readouterr().err}"


TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "templates/explain").glob("*.md")]
COMMANDS = typer.main.get_command(app)
TRAINING = {"--steps"}  # of train.py, to which `latentc train` hands what it does not know


@pytest.mark.parametrize("page", sorted(TEXTS), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_inside_sentences_exist(page: Path) -> None:
    """Their verbs and options; what stands in capitals is a place to fill in."""
    faults = []
    for mention in re.findall(r"`latentc ([^`]+)`", page.read_text(encoding="utf-8")):
        command: Any = COMMANDS
        words = mention.split()
        while words and words[0] in (below := getattr(command, "commands", {})):
            command = below[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        options = {word.split("=")[0] for word in words if word.startswith("-")}
        if hasattr(command, "commands") and words and not words[0].isupper() and not options:
            faults.append(f"`latentc {mention}`: no such verb")
        elif unknown := options - known - (TRAINING if command.name == "train" else set()):
            faults.append(f"`latentc {mention}`: no option {sorted(unknown)}")
    assert not faults
