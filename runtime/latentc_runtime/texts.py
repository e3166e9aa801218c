"""Text as tokens, and back.

A field of medium `text` says what its tokens are: those of `tokenizer`, a tokenizer.json as Hugging Face's libraries
write it; or characters, token i is `alphabet[i]`; or bytes of UTF-8, on which 256 and others may come. `start` is the
token that begins a text, if there is one; `end` the token that ends it, and that fills the rest. `cleaning`
says how texts are cleaned first. `tokenizer` needs the package tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

Field = Mapping[str, Any]
PACKAGE = "tokenizers"
MISSING = "text needs the package tokenizers: run `pip install 'latentc[text]'`"


def tokens_from_text(text: str, field: Field, length: int) -> list[int]:
    """At most `length` tokens of a text, with those that begin and end it, if there are any. Raises ValueError."""
    if how := field.get("cleaning"):
        from latentc_runtime.cleaning import cleaned  # which other texts do without

        text = cleaned(text, how)
    before, after = ([] if field.get(key) is None else [int(field[key])] for key in ("start", "end"))
    tokens = _tokens(text, field)[: max(0, length - len(before) - len(after))]
    if outside := [token for token in tokens if not 0 <= token < field["classes"]]:
        raise ValueError(
            f"token {outside[0]} is outside 0 to {field['classes'] - 1}: was it made by another tokenizer?"
        )
    return [*before, *tokens, *after]


def sample_from_text(text: str, field: Field, length: int) -> list[int]:
    """The `length` tokens of a text, filled up with the token that ends it. Raises ValueError if there is none."""
    tokens = tokens_from_text(text, field, length)
    missing = length - len(tokens)
    if missing and field.get("end") is None:
        message = f"a text has {len(tokens)} tokens, but samples have {length}"
        raise ValueError(f"{message}: set the field's `end`, the token that ends a text")
    return tokens + missing * [int(field["end"])] if missing else tokens


def text_from_tokens(tokens: Sequence[int], field: Field) -> str:
    """The text of tokens, from the one that begins it up to the one that ends it. Raises ValueError."""
    start, end, alphabet, classes = field.get("start"), field.get("end"), field.get("alphabet"), field["classes"]
    if any(not 0 <= token < classes for token in tokens):
        raise ValueError(f"a token is outside 0 to {classes - 1}")
    if start is not None and [*tokens[:1]] == [start]:
        tokens = tokens[1:]
    if end is not None and end in tokens:
        tokens = tokens[: list(tokens).index(end)]
    if tokenizer := field.get("tokenizer"):
        text: str = _tokenizer(tokenizer).decode(list(tokens))
        return text.strip()
    if alphabet:
        return "".join(alphabet[token] for token in tokens)
    if _bytes(field):
        return bytes(token for token in tokens if token < 256).decode(errors="replace")
    return " ".join(map(str, tokens))


def word_starts(tokens: Sequence[int], field: Field) -> list[bool]:
    """True for each token that begins a word: it starts with a space, or names no character. Raises ValueError.

    Of a tokenizer whose tokens do not say so, every token does.
    """
    if tokenizer := field.get("tokenizer"):
        starts = _starts(tokenizer)
        return [token not in starts or starts[token] for token in tokens]
    if alphabet := field.get("alphabet"):
        return [alphabet[token].isspace() for token in tokens]
    return [not _bytes(field) or token > 255 or bytes([token]).isspace() for token in tokens]


def is_word(token: int, field: Field) -> bool:
    """True if a token stands for characters; False of a tokenizer's special tokens, and if nothing is known of it."""
    if token in (field.get("start"), field.get("end")):
        return False
    if tokenizer := field.get("tokenizer"):
        try:
            found = _tokenizer(tokenizer)
        except ValueError:  # without the package that reads it
            return False
        added = found.get_added_tokens_decoder().get(token)
        return found.id_to_token(token) is not None and not (added is not None and added.special)
    if alphabet := field.get("alphabet"):
        return token < len(alphabet)
    return field.get("medium") == "text" and _bytes(field) and 0 < token < 256


def _bytes(field: Field) -> bool:
    """True if tokens are bytes; if 256 starts or ends texts, those from it on stand for no byte."""
    return bool(field["classes"] <= 256 or 256 in (field.get("start"), field.get("end")))


def _tokens(text: str, field: Field) -> list[int]:
    if tokenizer := field.get("tokenizer"):
        ids: list[int] = _tokenizer(tokenizer).encode(text, add_special_tokens=False).ids
        return ids
    if alphabet := field.get("alphabet"):
        if unknown := [character for character in text if character not in alphabet]:
            raise ValueError(f"the alphabet does not have the character {unknown[0]!r}")
        return [alphabet.index(character) for character in text]
    if not _bytes(field):
        raise ValueError(f"text of {field['classes']} tokens needs a tokenizer: set the field's `tokenizer`, a file")
    return list(text.encode())


@cache
def _tokenizer(file: str) -> Any:
    """The tokenizer of a tokenizer.json. Raises ValueError."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # of the library in Rust, whose type is Exception itself
        raise ValueError(f"{file} cannot be read as a tokenizer.json: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@cache
def _starts(file: str) -> dict[int, bool]:
    """True if a token of a tokenizer.json begins a word, but for those that were added to it. Raises ValueError."""
    tokenizer = _tokenizer(file)
    tokens: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    if type(tokenizer.model).__name__ == "WordPiece":
        prefix = tokenizer.model.continuing_subword_prefix
        found = {number: not token.startswith(prefix) for token, number in tokens.items()}
    else:
        spaces = ("\u0120", "\u2581")  # for a space: of tokens of bytes, and of SentencePiece
        found = {number: token.startswith(spaces) for token, number in tokens.items()}
    added = set(tokenizer.get_added_tokens_decoder())
    return {number: starts or number in added for number, starts in found.items()} if any(found.values()) else {}
