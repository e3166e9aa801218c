"""Captions cleaned before they become tokens, as DeepFloyd IF, PixArt and LlamaGen do for T5.

Captions of images from the web hold links, markup, names of files, numbers of articles and advertisements. The rules
below drop them, in order; later rules see what earlier ones left. They are those of the authors' code
(`T5Embedder.clean_caption`). Broken encodings are mended by the package ftfy.
"""

from __future__ import annotations

import html
import html.entities
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Literal
from urllib.parse import unquote_plus

Cleaning = Literal["captions", "lower"]
MISSING = "cleaning captions needs the package ftfy: run `pip install 'latentc[text]'`"

_ADDRESS = r"\b(?:{scheme}:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))"
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
_DASHES += "\ufe31\ufe32\ufe58\ufe63\uff0d"
_PUNCTUATION = r"#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*"

Rules = Sequence[tuple[str, str]]
"""(pattern, what replaces it)."""

BEFORE_MARKUP: Rules = (
    ("<person>", "person"),
    (_ADDRESS.format(scheme="https?"), ""),
    (_ADDRESS.format(scheme="www"), ""),
)
AFTER_MARKUP: Rules = (
    (r"@\w+\b", ""),  # nicknames
    ("[\u31c0-\u9fff]+", ""),  # CJK strokes, extensions, enclosed letters and ideographs
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # numbers of articles
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILES})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (f"[{_PUNCTUATION}]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINED = "[-_]"  # words joined as in a file's name, if there are more than three
AFTER_MENDING: Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # jc6640
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),  # jc6640vc
    (r"\b\d+[a-zA-Z]+\d+\b", ""),  # 6640vc231
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),  # j2d1a2a
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; one of the letters is Cyrillic
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"""^["']([\w\W]+)["']$""", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def cleaned(text: str, how: Cleaning) -> str:
    """The text without what says nothing of an image; `lower` only drops the case and spaces at the ends.

    Raises ValueError without the package ftfy.
    """
    if how == "lower":
        return text.lower().strip()
    return _cleaned(_cleaned(text))  # twice, as the authors do


def _cleaned(text: str) -> str:
    text = _replaced(unquote_plus(text).strip().lower(), BEFORE_MARKUP)
    text = _replaced(text_of_markup(text), AFTER_MARKUP)
    if len(re.findall(_JOINED, text)) > 3:
        text = re.sub(_JOINED, " ", text)
    text = html.unescape(html.unescape(_mended(text))).strip()
    return _replaced(text, AFTER_MENDING).strip()


def _replaced(text: str, rules: Rules) -> str:
    for pattern, other in rules:
        text = re.sub(pattern, other, text)
    return text


def _mended(text: str) -> str:
    try:
        import ftfy
    except ImportError:
        raise ValueError(MISSING) from None
    mended: str = ftfy.fix_text(text)
    return mended


def text_of_markup(text: str) -> str:
    """The text of HTML, as Beautiful Soup reads it with `html.parser`; text that is no HTML as it is."""
    parser = _Markup()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # a declaration that HTMLParser refuses
        return text
    parser.end_of_node()
    return "".join(parser.nodes)


_EMPTY = {
    "area",
    "base",
    "basefont",
    "bgsound",
    "br",
    "col",
    "command",
    "embed",
    "frame",
    "hr",
    "image",
    "img",
    "input",
}
_EMPTY |= {"isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source", "spacer", "track", "wbr"}
"""Elements without an end tag."""
_HIDDEN = frozenset({"rp", "rt", "script", "style", "template"})
"""Elements whose text is not shown with that around it."""
_KEPT = frozenset({"pre", "textarea"})
"""Elements whose white space is kept."""


class _Markup(HTMLParser):
    """Collects the text between tags in `nodes`; white space alone is one space or line break."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.nodes: list[str] = []
        self.parts: list[str] = []
        self.open: list[str] = []

    def end_of_node(self) -> None:
        data = "".join(self.parts)
        self.parts = []
        if any(tag in _HIDDEN for tag in self.open):
            return
        if data and not data.strip(" \n\t\f\r") and not any(tag in _KEPT for tag in self.open):
            data = "\n" if "\n" in data else " "
        self.nodes.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.end_of_node()
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self.end_of_node()
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_charref(self, name: str) -> None:
        number = int(name[1:], 16) if name[:1] in "xX" else int(name)
        self.parts.append(_character(number))

    def handle_entityref(self, name: str) -> None:
        known = html.entities.html5.get(f"{name};")
        self.parts.append(f"&{name}" if known is None else known)

    def handle_comment(self, data: str) -> None:
        self.end_of_node()

    def handle_decl(self, decl: str) -> None:
        self.end_of_node()

    def unknown_decl(self, data: str) -> None:
        self.end_of_node()
        if data.upper().startswith("CDATA["):
            self.nodes.append(data[6:])

    def handle_pi(self, data: str) -> None:
        self.end_of_node()


def _character(number: int) -> str:
    """The character of a numeric reference; of a byte, that of Windows-1252."""
    if number < 256:
        try:
            return bytes([number]).decode("windows-1252")
        except UnicodeDecodeError:
            pass
    try:
        return chr(number)
    except (ValueError, OverflowError):
        return "\N{REPLACEMENT CHARACTER}"


__all__ = ["Cleaning", "cleaned", "text_of_markup"]
