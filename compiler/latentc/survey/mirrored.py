"""Whether mirror images of a data set's samples still belong to their classes."""

from __future__ import annotations

import re

from latentc.survey.report import Survey

_NUMBER_WORDS = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"}
_SIDES = {"left", "right", "clockwise", "counterclockwise", "anticlockwise", "east", "west", "leftward", "rightward"}
_CHARACTERS = {"digit", "digits", "letter", "letters", "character", "characters", "char", "chars", "glyph", "glyphs"}
_CHARACTERS |= {"font", "fonts", "text", "texts", "word", "words", "ocr", "captcha", "captchas", "handwriting", "svhn"}
_CHARACTERS |= {"usps", "omniglot", "alphabet", "kanji", "hiragana", "katakana", "hangul", "plates", "chars74k"}
_MNIST = re.compile(r"[a-z]*mnist")
_GLYPHS = 0.8  # share of pixels that are nearly black or white, from which grey images look like characters


def _words(text: str) -> list[str]:
    """The words of a name: `turnLeft_2` has `turn`, `left` and `2`."""
    return re.findall(r"[a-z]+\d+k|[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())


def why_not_mirrored(found: Survey) -> str | None:
    """Why mirroring would change the class or the content of samples; None if nothing says so."""
    names = found.names
    symbols = [name for name in names if len(name) == 1 or name.isdecimal() or (_words(name)[-1:] and _is_symbol(name))]
    if names and 2 * len(symbols) > len(names):
        return f"the classes ({', '.join(names[:3])}, …) are digits or letters, and mirrored ones would be others"
    for name in names:
        if sides := _SIDES & set(_words(name)):
            return f"the class `{name}` says {min(sides)}"
    path = _words(found.path)
    named = [w for w in path if w in _CHARACTERS or (_MNIST.fullmatch(w) and "fashion" not in "".join(path))]
    if named:
        return f"`{found.path}` names {named[0]}, and mirrored characters would be others"
    if found.channels == 1 and found.modes and found.glyphs >= _GLYPHS:
        return f"{found.glyphs:.0%} of the pixels are black or white, as of digits, letters or text"
    return None


def _is_symbol(name: str) -> bool:
    """True for names such as `seven`, `letter_b`, `upper_A` and `digit-7`."""
    *first, last = _words(name)
    if last in _NUMBER_WORDS:
        return not first or first[-1] in _CHARACTERS
    return (
        bool(first) and (len(last) == 1 or last.isdecimal()) and first[-1] in (*_CHARACTERS, "upper", "lower", "class")
    )
