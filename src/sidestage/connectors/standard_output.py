"""Standard output as a sink: what is written can be piped into any other program."""

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sidestage.connectors.failure import ConnectorError
from sidestage.connectors.line_files import encoded
from sidestage.stream.contract import Refused

T_contra = TypeVar("T_contra", contravariant=True)


class StandardOutput(Generic[T_contra]):
    r"""Items as lines of text, made by ``line``; bytes are written as they are.

    An item counts as written when it was handed to whoever reads. An item that is more than one line, or of
    characters that the output cannot show, is refused.
    """

    name = "stdout"

    def __init__(self, line: Callable[[T_contra], str | bytes] | None = None) -> None:
        self._line = line
        self._lock = threading.Lock()

    def open(self) -> "StandardOutput[T_contra]":
        """Begin to write."""
        return self

    def write(self, items: Sequence[T_contra]) -> None:
        """Write items, and hand them on.

        Raises Refused for those that are no lines; ConnectorError if nobody reads any more.
        """
        lines, errors = encoded(items, self._bytes_of)
        try:
            with self._lock:
                _put(b"\n".join((*lines, b"")))
        except BrokenPipeError as error:
            raise ConnectorError(
                "Standard output is closed: whoever read it has ended.",
                hint="Such as head, which reads as much as it wants.",
                failure_class="stale",
            ) from error
        if errors:
            raise Refused(errors)

    def close(self) -> None:
        """Leave standard output open: it is not ours."""

    def _bytes_of(self, item: T_contra) -> bytes:
        made = item if self._line is None else self._line(item)
        if isinstance(made, bytes):
            return made
        return str(made).encode(sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict")


def _put(data: bytes) -> None:
    out = sys.stdout
    out.flush()  # what was printed before comes before
    try:
        number = out.fileno()
    except (OSError, AttributeError):  # as in a notebook, or where a test looks on
        out.write(data.decode(out.encoding or "utf-8", out.errors or "strict"))
        out.flush()
        return
    # Not by way of the interpreter's buffer: what nobody took would lie there, and seem written.
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:
            select.select((), (number,), ())
