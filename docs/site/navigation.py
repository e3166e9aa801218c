"""A Sphinx extension: the navigation of the theme furo, computed once instead of once per page.

Sphinx resolves the whole table of contents anew for every page, and furo parses the result; for two hundred pages in
one table that is two thirds of a build. The pages of a folder differ only in which entry is the current one.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment.adapters.toctree import global_toctree_for_doc
from sphinx.util.typing import ExtensionMetadata


@cache
def _tree(app: Sphinx) -> str:
    """The table of contents as HTML, with links from the root of the site and no current page."""
    builder: Any = app.builder
    tree = global_toctree_for_doc(
        app.env, app.config.root_doc, builder, tags=app.tags, maxdepth=-1, titles_only=True, includehidden=True
    )
    html: str = builder.render_partial(tree)["fragment"]
    return html


def give_tree(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Replace the function by which furo asks for the table; furo caches what it makes of equal tables."""
    up = "../" * page.count("/")
    context["toctree"] = lambda **_: re.sub('href="(?=[^#])', f'href="{up}', _tree(app))


def mark_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mark the page's entry as the current one, and unfold the entry that it is below."""
    up, tree = "../" * page.count("/"), context["furo_navigation_tree"]
    for name, classes in ((page.rpartition("/")[0], "current"), (page, "current current-page")):
        entry = re.compile(rf'(<li class="[^"]*)(">\s*<a class="[^"]*" href="{re.escape(up + name)}\.html">)')
        tree = entry.sub(rf"\1 {classes}\2", tree, count=1)
        unfolded = re.compile(rf'(href="{re.escape(up + name)}\.html">[^<]*</a>\s*<input)(?= [^>]*checkbox)')
        tree = unfolded.sub(r'\1 checked=""', tree, count=1)
    context["furo_navigation_tree"] = tree


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("html-page-context", give_tree, priority=400)  # furo has 500
    app.connect("html-page-context", mark_page, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
