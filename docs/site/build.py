"""Builds the site: `make site`, or `python docs/site/build.py [FOLDER]` (out/site).

Sphinx reads pages from one folder and wants every page in a table of contents. The pages of this repository are in
several folders and link to each other, and to other files, as a forge shows them. So the sources are first copied to
FOLDER-work/source: links between pages follow them, links to other files lead to pages with those files' text, and the
table of contents is read from docs/README.md, the site's first page. Then Sphinx builds them; every warning, such as a
broken link or anchor, is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOTEBOOKS = Path("examples/notebooks")
ABOUT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")

LINK = re.compile(r"(\]\()([^)#\s]*)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```+).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)


def pages(root: Path) -> dict[Path, Path]:
    """{file in the repository: file in the sources} of all pages and pictures."""
    found = {Path("docs/README.md"): Path("index.md")}
    found |= {Path(name): Path(name) for name in ABOUT if (root / name).is_file()}
    for path in sorted((root / "docs").rglob("*")):
        file = path.relative_to(root)
        if path.suffix in (".md", ".png", ".svg"):
            found.setdefault(file, file.relative_to("docs"))
    for path in sorted((root / NOTEBOOKS).glob("*.ipynb")):
        found[path.relative_to(root)] = Path("notebooks", path.name)
    return found


class Sources:
    """The sources of the site of the repository `root`, in `folder`. Unchanged files stay untouched."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder, self.pages = root, folder, pages(root)
        self.written: set[Path] = set()
        self.shown: set[Path] = set()  # other files and folders that pages link to

    def write_all(self) -> None:
        """Write every page, and delete what earlier builds left of pages that are gone."""
        for file, to in self.pages.items():
            if to.suffix == ".md":
                self.write(
                    to, self.with_contents(to, self.linked(file, (self.root / file).read_text(encoding="utf-8")))
                )
            elif to.suffix == ".ipynb":
                self.write(to, self.notebook(file))
            else:
                self.write(to, (self.root / file).read_bytes())
        for file in sorted(self.shown):
            self.write(self.file_page(file), self.file_text(file))
        for path in self.folder.rglob("*"):
            if path.is_file() and path.relative_to(self.folder) not in self.written:
                path.unlink()

    def write(self, to: Path, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        path = self.folder / to
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
        self.written.add(to)

    def linked(self, file: Path, text: str) -> str:
        """The text of a page with its links as they are on the site."""

        def there(match: re.Match[str]) -> str:
            before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
            if not target or "://" in target or target.startswith("mailto:"):
                return match[0]
            return f"{before}{self.target(file, target)}{anchor}{after}"

        return _outside_fences(text, lambda part: LINK.sub(there, part))

    def target(self, file: Path, target: str) -> str:
        """The link to another file, from where `file` is on the site; as it is if there is no such file."""
        place = Path(os.path.normpath(file.parent / target))
        if not (self.root / place).exists():
            return target
        to = self.pages.get(place)
        if to is None:
            inside = [place / path.name for path in _files(self.root / place)] if (self.root / place).is_dir() else []
            self.shown |= {place, *inside}
            to = self.file_page(place)
        return os.path.relpath(to, self.pages.get(file, self.file_page(file)).parent)

    @staticmethod
    def file_page(file: Path) -> Path:
        return Path("files", f"{file}.md")

    def notebook(self, file: Path) -> str:
        content = json.loads((self.root / file).read_text(encoding="utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.linked(file, "".join(cell["source"]))
        return json.dumps(content)

    def with_contents(self, to: Path, text: str) -> str:
        """A page with the hidden tables of contents of the pages below it."""
        if to == Path("index.md"):
            return text + "".join(_contents(names, caption) for caption, names in _groups(text))
        below = sorted(p for p in self.pages.values() if p.suffix == ".md" and p.parent == to.with_suffix(""))
        return text + (_contents([f"{p.parent.name}/{p.stem}" for p in below]) if below else "")

    def file_text(self, file: Path) -> str:
        """The page of a file: its text; that of a folder: its files."""
        head = f"---\norphan: true\nnosearch: true\n---\n# {file}\n\n"
        if (self.root / file).is_dir():
            names = [path.name for path in _files(self.root / file)]
            return head + "".join(f"- [{name}]({file.name}/{name}.md)\n" for name in names)
        text = (self.root / file).read_text(encoding="utf-8")
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
        return f"{head}{fence}{_language(file)}\n{text.rstrip()}\n{fence}\n"


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` applied outside blocks of code."""
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def _groups(text: str) -> Iterator[tuple[str, list[str]]]:
    """(heading, pages) of each section of the first page that lists pages."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        names = re.findall(r"^- \[[^]]*\]\(([^)#]+)\.(?:md|ipynb)\)", body, re.MULTILINE)
        if names:
            yield heading.strip(), names


def _contents(names: list[str], caption: str = "") -> str:
    lines = ["", "", "```{toctree}", ":hidden:", *([f":caption: {caption}"] if caption else []), "", *names, "```", ""]
    return "\n".join(lines)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _language(file: Path) -> str:
    """The name by which Pygments knows a file's language."""
    try:
        return str(get_lexer_for_filename(file.name).aliases[0])
    except ClassNotFound:
        return "text"


def build(root: Path, folder: Path) -> int:
    """Build the site of the repository `root` into `folder`; the exit status of Sphinx, 1 if there was a warning."""
    work = folder.with_name(f"{folder.name}-work")
    Sources(root, work / "source").write_all()
    flags = ["--fail-on-warning", "--quiet", "-c", str(HERE), "-d", str(work / "doctrees")]
    status = build_main([*flags, str(work / "source"), str(folder)])
    if status:
        shutil.rmtree(work / "doctrees", ignore_errors=True)  # a page without changes would not warn again
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the site from docs/.")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "out/site")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository whose docs/ are built")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    status = build(given.root, folder)
    if not status:
        print(f"the site: {folder / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
