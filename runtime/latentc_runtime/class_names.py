"""Class names: class numbers from the names that a request gives.

A name may list synonyms separated by commas, as ImageNet's do: "tench, Tinca tinca". A class is found by its whole name
or any synonym; case, underscores and repeated spaces do not matter.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from latentc_runtime.sources import RequestError

LONGEST = 256  # longest name in characters
_ITEM = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|(?!")([^,]*))(,|$)')


def is_name(text: str) -> bool:
    """True if a text can name a class: 1 to `LONGEST` printable characters without spaces around them."""
    return 0 < len(text) <= LONGEST and text.isprintable() and text == text.strip()


def title(names: Sequence[str], number: int) -> str:
    """How a class is shown: its first synonym, or its number if it has no name."""
    return names[number].partition(",")[0].strip() or names[number] if names else str(number)


def titles(names: Sequence[str], numbers: Sequence[int]) -> list[str]:
    """How each of several classes is shown; see `title`."""
    return [title(names, int(number)) for number in numbers]


def classes_from_text(text: str, count: int, names: Sequence[str] = (), most: int = 1 << 24) -> list[int]:
    """Classes that a text lists: `3`, `0-9`, `all` and names, separated by commas, as in `tabby,0-9,"crane bird"`.

    In double quotes a name may hold commas, or be a number. `count`: number of classes, from 0; `most`: the largest
    number of samples. Raises RequestError.
    """
    found: list[int] = []
    for item, quoted in _items(text):
        if len(found) > most:
            raise RequestError(f"more than {most} samples in one request", "split them into several requests")
        if not quoted and item == "all":
            found += range(count)
        elif not quoted and (numbers := re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", item, re.ASCII)):
            found += _range(item, int(numbers[1]), int(numbers[2] or numbers[1]), count)
        else:
            found.append(class_from_name(item, names))
    return found


def _items(text: str) -> Iterator[tuple[str, bool]]:
    """(item, whether it is in quotes) of a list separated by commas."""
    at = 0
    while (found := _ITEM.match(text, at)) is not None:
        quoted, plain, comma = found.groups()
        yield (quoted.replace('""', '"'), True) if quoted is not None else (plain.strip(), False)
        at = found.end()
        if not comma:
            return
    raise RequestError(
        f"`{shown(text)}` is not a list of classes", 'close quotes, and put a comma after each quoted name: "a, b",c'
    )


def _range(text: str, first: int, last: int, count: int) -> range:
    if last < first:
        raise RequestError(f"the range `{text}` is empty", f"classes are 0 to {count - 1}")
    if last >= count:
        raise RequestError(f"class {last} is out of range", f"classes are 0 to {count - 1}")
    return range(first, last + 1)


def class_from_name(name: str, names: Sequence[str]) -> int:
    """The class that `name` means: the one with that whole name, otherwise with that synonym. Raises RequestError."""
    if not names:
        what = f"`{shown(name)}` is neither a class nor a range of classes" if name else "a class is missing"
        raise RequestError(what, "write `3`, `0-9`, `1,4,7-9` or `all`: this model has no class names")
    whole, synonyms = _index(tuple(names))
    wanted = _folded(name)
    found = whole.get(wanted) or synonyms.get(wanted) or ()
    if len(found) > 1:
        which = " or ".join(f"{number} ({names[number]})" for number in found)
        raise RequestError(
            f"`{shown(name)}` is ambiguous: it could be class {which}", "give the number or the full name"
        )
    if not found:
        raise RequestError(f"no class `{shown(name)}`", _alternatives(wanted, names))
    return found[0]


@lru_cache(maxsize=8)
def _index(names: tuple[str, ...]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Classes by whole name, and by synonym."""
    whole: dict[str, list[int]] = {}
    synonyms: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        whole.setdefault(_folded(name), []).append(number)
        for part in dict.fromkeys(map(_folded, name.split(","))):
            synonyms.setdefault(part, []).append(number)
    return whole, synonyms


def _folded(name: str) -> str:
    """A name as names are compared."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def _alternatives(wanted: str, names: Sequence[str]) -> str:
    """Names close to the one that was not found."""
    synonyms = _index(tuple(names))[1]
    close = difflib.get_close_matches(wanted, list(synonyms), n=3, cutoff=0.7)
    if wanted:
        close += [name for name in synonyms if re.search(rf"\b{re.escape(wanted)}\b", name)]
    numbers = dict.fromkeys(number for name in close for number in synonyms[name])
    if numbers:
        return f"did you mean {' or '.join(f'`{title(names, n)}` ({n})' for n in list(numbers)[:4])}?"
    few = ", ".join(titles(names, range(min(3, len(names)))))
    return f"classes are 0 to {len(names) - 1}: {few}{', …' if len(names) > 3 else ''}"


def shown(text: str) -> str:
    """A user's text as a message shows it: short, without characters that drive a terminal."""
    text = text if len(text) <= 60 else text[:57] + "…"
    return "".join(c if c.isprintable() else "�" for c in text)


__all__ = ["LONGEST", "class_from_name", "classes_from_text", "is_name", "shown", "title", "titles"]
