"""The way into a stream: its source, and the stage that decodes what the source gives, if it asks for one.

A source reads many items at a time and has no way to say that one of them is bad. So it hands on what it
read, and a stage makes items of that: a bad one is an error of this stage, and its neighbours never notice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from sidestage.stream.contract import Source
from sidestage.stream.failing import OnError
from sidestage.stream.memory.weights import weight
from sidestage.stream.nodes import Manner, MapNode, Node, SourceNode

T_co = TypeVar("T_co", covariant=True)


class EncodedSource(Source[T_co], Protocol[T_co]):
    """A source of items that are to be made, by a stage named "decode", of what it reads."""

    @property
    def decode(self) -> Callable[[Any], T_co]:
        """What makes an item, and raises if it cannot."""
        ...

    @property
    def on_error(self) -> OnError | None:
        """What happens to what cannot be decoded; None leaves it to the run."""
        ...


def way_in(
    source: Source[Any],
    trace: Callable[[Any], str | None] | None,
    size: Callable[[Any], float] | None = None,
) -> Node:
    """Return where the items of a source come from, decoded.

    ``trace`` tells with which trace one came, ``size`` how many bytes it takes.
    """
    decode = getattr(source, "decode", None)
    if not callable(decode):
        return SourceNode(source.name, source=source, incoming=trace, size=size)
    incoming = None if trace is None else partial(_trace_of, trace, decode)
    weighed = None if size is None else partial(_size_of, size, decode)
    node = SourceNode(source.name, source=source, incoming=incoming, size=weighed)
    manner = Manner(on_error=getattr(source, "on_error", None))
    return MapNode("decode", (node,), manner, function=decode)


def _trace_of(trace: Callable[[Any], str | None], decode: Callable[[Any], Any], raw: Any) -> str | None:
    """Return with which trace an item came that is not decoded yet. Raises what either function raises."""
    return trace(decode(raw))


def _size_of(size: Callable[[Any], float], decode: Callable[[Any], Any], raw: Any) -> float:
    """Return the bytes of an item that is not decoded yet; of what was read if it cannot be."""
    try:
        item = decode(raw)
    except Exception:  # noqa: BLE001 - the stage that decodes says what becomes of it
        return weight(raw)
    return size(item)
