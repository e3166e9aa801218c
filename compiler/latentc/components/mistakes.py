"""Mistakes in components of users, as diagnostics at the line of their own code."""

from __future__ import annotations

import builtins
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from pydantic import BaseModel

from latentc.components.component import Component, kind_of
from latentc.diagnostics import DiagnosticError, Span, nearest

# the folders of the users' packages, by package
USERS: dict[str, Path] = {}

_OURS = Path(__file__).parents[1]


@contextmanager
def blamed(spec: Any = None) -> Iterator[None]:
    """DiagnosticError E0903 in place of an exception that arises in a component of a user.

    Of a spec that has such components, also in place of one that arises in what is done with them.
    """
    try:
        yield
    except Exception as error:
        if (found := of_code(error) or (of_use(error, spec) if spec is not None else None)) is not None:
            raise found from error
        raise


def of_use(error: BaseException, spec: Any = None) -> DiagnosticError | None:
    """E0903 for an exception outside of the users' packages whose components a spec has; no spec: of all packages."""
    if isinstance(error, DiagnosticError | OSError | MemoryError) or not isinstance(error, Exception):
        return None
    frames = list(_frames(error.__traceback__))
    owners = [cls for frame, *_ in frames if (cls := _owner(frame)) is not None and _root(cls) in USERS]
    frame, line, _ = frames[-1]
    raised = f"raised by {_shown(frame.f_code.co_filename)}:{line}"
    if owners and isinstance(error, NotImplementedError) and _owner(frame) is owners[-1]:
        asked, found = frame.f_code.co_name, owners[-1]
        base = next(b for b in found.__mro__ if asked in vars(b))
        note = f"asked for: {described(base, asked)} ({base.__name__})"
        return DiagnosticError.of("E0904", f"{named(found)}: it has no `{asked}`", span_of(found), notes=(note,))
    classes = list(dict.fromkeys(owners)) or (of_users(spec) if spec is not None else [])
    who = [named(cls) for cls in classes] or [f"the package `{name}`" for name in USERS if spec is None]
    if not who:
        return None
    span = span_of(classes[0]) if len(classes) == 1 else None
    mend = "check what it returns; if this happens without it, please report it (`--debug` shows the traceback)"
    return DiagnosticError.of("E0903", f"with {' and '.join(who)}: {_said(error)}", span, notes=(raised,), help=mend)


def of_users(value: Any) -> list[type]:
    """The classes of the users' packages whose components are in a spec, by name."""
    found = {type(part) for part in _within(value) if type(part).__module__.partition(".")[0] in USERS}
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


def _within(value: Any) -> Iterator[BaseModel]:
    """The models in a value, with those in their fields."""
    if isinstance(value, BaseModel):
        yield value
        value = value.__dict__
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ():
        yield from _within(item)


def named(cls: type) -> str:
    """A component's class, in words."""
    kind = kind_of(cls) if issubclass(cls, Component) else None
    of = f" of the package `{_root(cls)}`" if _root(cls) in USERS else ""
    return f"the component `{kind or cls.__name__}`{of}"


def _root(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def of_code(error: BaseException) -> DiagnosticError | None:
    """E0903 at the last line of a user's package in an exception's traceback; None if there is no such line."""
    if isinstance(error, DiagnosticError | MemoryError | KeyboardInterrupt | SystemExit):
        return None
    frames = list(_frames(error.__traceback__))
    theirs = [frame for frame in frames if _package_of(frame[0])]
    if not theirs:
        return None
    frame, _, span = theirs[-1]
    subject = next((name for other, *_ in reversed(theirs) if (name := _component(other))), None)
    subject = subject or f"the package `{_package_of(frame)}`"
    notes = [text for other, *_ in theirs[:1] if (text := _asked(other))]
    if frames[-1][0] is not frame:
        notes.append(f"raised by {_shown(frames[-1][0].f_code.co_filename)}:{frames[-1][1]}")
    help = _remedy(error, frame)
    return DiagnosticError.of("E0903", f"{subject}: {_said(error)}", span, notes=tuple(notes), help=help)


def of_import(error: Exception, subject: str, folder: Path) -> DiagnosticError:
    """E0902 for a module of a package in `folder` that cannot be imported, at the line that raises."""
    if isinstance(error, DiagnosticError):
        return error
    frames = [found for found in _frames(error.__traceback__) if _inside(found[0].f_code.co_filename, folder)]
    span, help = (frames[-1][2], _remedy(error, frames[-1][0])) if frames else (None, None)
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        column = max(1, error.offset or 1)
        end = error.end_offset if error.end_offset and error.end_offset > column else column + 1
        span = Span(error.filename, error.lineno, column, error.lineno, end)
    return DiagnosticError.of("E0902", f"{subject} cannot be imported: {_said(error)}", span, help=help)


def span_of(part: Any) -> Span | None:
    """Where a class or function is defined: its first line; None if its source is not here."""
    try:
        lines, first = inspect.getsourcelines(part)
        file = inspect.getsourcefile(part) or ""
    except (OSError, TypeError):
        return None
    skipped = next((i for i, text in enumerate(lines) if text.lstrip().startswith(("class ", "def "))), 0)
    text = lines[skipped].rstrip()
    start = len(text) - len(text.lstrip())
    return Span(file, first + skipped, start + 1, first + skipped, len(text) + 1)


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int, Span]]:
    """The frames of a traceback from the outermost on, each with its line and the place in it."""
    while trace is not None:
        frame = trace.tb_frame
        summary = traceback.extract_tb(trace, 1)[0]
        first, last = summary.lineno or trace.tb_lineno, summary.end_lineno or trace.tb_lineno
        start = (summary.colno or 0) + 1
        end = (summary.end_colno or start) + 1 if last == first else start + 1
        yield frame, first, Span(frame.f_code.co_filename, first, start, last, max(end, start + 1))
        trace = trace.tb_next


def _package_of(frame: FrameType) -> str | None:
    """The user's package whose code a frame runs."""
    file = frame.f_code.co_filename
    return next((name for name, folder in USERS.items() if _inside(file, folder)), None)


def _inside(file: str, folder: Path) -> bool:
    try:
        return Path(file).resolve().is_relative_to(folder)
    except (OSError, ValueError):
        return False


def _owner(frame: FrameType) -> type | None:
    """The component class whose method a frame runs."""
    given = frame.f_locals.get("self", frame.f_locals.get("cls"))
    owner = given if isinstance(given, type) else type(given)
    return owner if issubclass(owner, Component) else None


def _component(frame: FrameType) -> str | None:
    """The component that a frame belongs to, in words."""
    owner = _owner(frame)
    classes = [owner] if owner is not None else []
    module = sys.modules.get(frame.f_globals.get("__name__", ""))
    classes += [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Component)] if module else []
    kinds = [kind for cls in classes if cls.__module__.partition(".")[0] in USERS and (kind := kind_of(cls))]
    return f"the component `{kinds[0]}` of the package `{_package_of(frame)}`" if kinds else None


def _asked(frame: FrameType) -> str | None:
    """What the core's class says of the method that a frame runs."""
    owner, name = _owner(frame), frame.f_code.co_name
    for base in owner.__mro__[1:] if owner is not None else ():
        if name in vars(base) and base.__module__.startswith("latentc."):
            return f"{base.__name__} asks for {described(base, name)}"
    return None


def described(base: type, name: str) -> str:
    """A method of a core class: its signature, and what it is."""
    found = vars(base)[name]
    function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    doc = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
    if isinstance(found, property):
        text = f"the property `{name}`"
    elif callable(function):
        text = f"`{name}{inspect.signature(function)}`".replace("'", "")
    else:
        text = f"`{name}`"
    return f"{text}: {doc}" if doc else text


def _said(error: BaseException) -> str:
    """The type and the first line of an exception's text."""
    return f"{type(error).__name__}: {error}".removesuffix(": ").splitlines()[0]


def _shown(file: str) -> str:
    """A file of ours from the compiler's folder on, another as it is."""
    path = Path(file)
    return path.relative_to(_OURS.parent).as_posix() if path.is_relative_to(_OURS) else file


def _remedy(error: BaseException, frame: FrameType) -> str | None:
    """A name like the one that does not exist."""
    names: list[str] = []
    wanted = error.name if isinstance(error, AttributeError | NameError | ImportError) else None
    if isinstance(error, AttributeError):
        names = [name for name in dir(error.obj) if not name.startswith("_")]
    elif isinstance(error, NameError):
        names = [*frame.f_locals, *frame.f_globals, *dir(builtins)]
    elif isinstance(error, ModuleNotFoundError):
        return f"is the package `{str(wanted).partition('.')[0]}` installed?"
    elif isinstance(error, ImportError) and (module := sys.modules.get(wanted or "")):
        words = str(error).split("'")
        wanted, names = words[1] if len(words) > 1 else None, [n for n in dir(module) if not n.startswith("_")]
    close = nearest(wanted, names) if isinstance(wanted, str) else None
    return f"did you mean `{close}`?" if close else None
