"""One line instead of a traceback for errors that a user can fix.

Scripts import this module before the packages that may be missing.
"""

import errno
import sys
import threading
from typing import Any

ADVICE = {
    errno.ENOSPC: "free some space; then `--resume true` goes on from the newest checkpoint",
    errno.EACCES: "change its permissions, or choose another folder with --out",
    errno.ENOTDIR: "choose another folder with --out",
}
ADVICE |= dict.fromkeys((errno.EDQUOT, errno.EFBIG), ADVICE[errno.ENOSPC])
ADVICE |= dict.fromkeys((errno.EPERM, errno.EROFS), ADVICE[errno.EACCES])
ADVICE |= dict.fromkeys((errno.EEXIST, errno.EISDIR), ADVICE[errno.ENOTDIR])


def in_words(error: BaseException) -> str | None:
    """Advice on an error that a user can fix; None for others."""
    match error:
        case ModuleNotFoundError():
            return f"the package {error.name} is missing: pip install -r requirements.txt"
        case OSError(errno=int(code)):
            place = f"{error.filename}: " if error.filename else ""
            advice = f"; {ADVICE[code]}" if code in ADVICE else ""
            return f"{place}{error.strerror}{advice}"
        case KeyboardInterrupt():
            return "interrupted"
    return None


def report(kind: Any, error: BaseException, trace: Any) -> None:
    words = in_words(error)
    if words is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(words, file=sys.stderr)


sys.excepthook = report
# TensorBoard writes in its own thread, whose errors it raises again in the main thread.
threading.excepthook = lambda caught: (
    None if isinstance(caught.exc_value, OSError) else threading.__excepthook__(caught)
)
