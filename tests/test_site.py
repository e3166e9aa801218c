"""The site: built from docs/ without a warning, it needs nothing from elsewhere and holds what its reader looks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILDER = ROOT / "docs/site/build.py"


def built(folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(BUILDER), str(folder), "--root", str(root)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_site_builds(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = built(site)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<img[^>]*src="_images/gallery\.png"', page)
    assert (site / "_images/gallery.png").is_file()
    assert "digits" in (site / "searchindex.js").read_text(encoding="utf-8")
    for below in ("systems", "vocabulary", "tutorials"):
        sources = {path.stem for path in (ROOT / "docs" / below).glob("*.md")}
        assert sources and sources == {path.stem for path in (site / below).glob("*.html")}
    notebooks = {path.stem for path in (ROOT / "examples/notebooks").glob("*.ipynb")}
    assert notebooks == {path.stem for path in (site / "notebooks").glob("*.html")}
    # The sections of the first page are the navigation of every page.
    sections = re.findall("^## (.*)", (ROOT / "docs/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    deep = (site / "systems/dit.html").read_text(encoding="utf-8")
    assert all(f'<span class="caption-text">{section}</span>' in deep for section in sections)
    # Links to files of the repository lead to pages with their text.
    assert 'href="files/examples/cluster.html"' in (site / "training.html").read_text(encoding="utf-8")
    assert "torchrun" in (site / "files/examples/cluster/train.sbatch.html").read_text(encoding="utf-8")
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//', text), f"{path} loads from elsewhere"
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//', text), path


def test_broken_links_fail_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    links = "[a](gone.md) [b](other.md#lost) [c](../specs/absent.yaml)"
    (docs / "README.md").write_text(f"# First\n\n## Pages\n\n- [other](other.md)\n\n{links}\n")
    (docs / "other.md").write_text("# Other\n")
    done = built(tmp_path / "site", tmp_path)
    assert done.returncode == 1
    assert all(f"{name}'" in done.stderr for name in ("gone.md", "lost", "absent.yaml")), done.stderr
