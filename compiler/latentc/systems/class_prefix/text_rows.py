"""Texts of a table, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.data.table import Table
from latentc.components.fields import Field
from latentc.components.parts import Problem, Spec
from latentc.systems.class_prefix.row_tokens import RowTokens


class TextRows(Table):
    """A `table` whose texts are concatenated and cut into blocks of the sample length."""

    kind: Literal["text_rows"]  # type: ignore[assignment]
    row: str = Option(
        description="template of a text: `{text}`, and `{label}` for its label; texts end with the field's `end` and "
        "are separated by a space"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "text_rows",
        "row": "{text}",
        "fields": {"tokens": {"shape": [8], "classes": 256, "medium": "text", "end": 0}},
    }

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        texts = "tokens" in fields and fields["tokens"].medium == "text"
        return texts and super().provides(name, field, fields, encoded)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        tokens = self.fields.get("tokens")
        if tokens is None or tokens.medium != "text" or "{text}" not in self.row:
            yield Problem(
                ("row",),
                "a `row` needs the field `tokens` to be text, and must contain `{text}`",
                "for example `row: '{label}: {text}'`, with a field `tokens` of medium `text`",
            )
        if not isinstance(spec.objective, RowTokens):
            message = "rows already contain their classes, but the objective would add another token for the class"
            yield Problem(("row",), message, "use `objective: {kind: row_tokens}`")
