"""Spans of OpenTelemetry: for a share of the chunks, what each stage did with them, and when.

A trace begins where a chunk is read and has the id of its first item. The span of the source lasts until all
that came of the chunk has been dealt with; below it each stage has a span, the child of that of the stage
before. Spans are made when a stage is done, from times that are taken anyway.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sidestage.about import VERSION
from sidestage.clock import Clock
from sidestage.errors import DefinitionError
from sidestage.stream.chunk import Chunk
from sidestage.stream.observing.traces import is_sampled

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Incoming = Callable[[Any], str | None]
"""Returns the ``traceparent`` (W3C Trace Context) that an item came with, if it did."""


class Spans:
    """Makes the spans of one run. Safe for threads.

    Raises DefinitionError if opentelemetry-api is not there.
    """

    def __init__(self, share: float, clock: Clock) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise DefinitionError(
                f"Settings(trace={share:g}) asks for spans, and opentelemetry-api is not installed.",
                hint="pip install 'sidestage[opentelemetry]', or leave trace at 0.",
            ) from error
        self._trace = trace
        self._share = share
        self._clock = clock
        self._tracer = trace.get_tracer("sidestage.stream", VERSION)

    def begin(self, source: str, chunk: Chunk, incoming: Incoming | None) -> None:
        """Begin the trace of a chunk that was just read, if it is among those to be traced."""
        trace = chunk.trace_of(0)
        if trace is not None and is_sampled(trace, self._share):
            with suppress(Exception):  # of whoever takes the spans: a trace is never worth an item
                self._begin(source, chunk, trace, incoming)

    def _begin(self, source: str, chunk: Chunk, trace: str, incoming: Incoming | None) -> None:
        ticket = chunk.tickets[0]
        attributes: dict[str, Any] = {
            "sidestage.source": source,
            "sidestage.part": ticket.part,
            "sidestage.position": ticket.first,
            "sidestage.items": len(chunk.items),
        }
        root = self._tracer.start_span(
            source,
            context=self._context(self._origin(trace)),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=self._links(chunk, incoming),
            start_time=self.nanoseconds(),
        )
        ticket.settled = partial(_end, root)
        chunk.trail = Trail(self, root, root.get_span_context())

    def nanoseconds(self) -> int:
        """Return the time, in nanoseconds since 1970."""
        return (self._clock.now() - _EPOCH) // _MICROSECOND * 1000

    def stage(self, name: str, trail: "Trail", items: int, seconds: float) -> "SpanContext":
        """Note that a stage is done with a chunk, which took so long; return its span's identity."""
        ended = self.nanoseconds()
        attributes: dict[str, Any] = {"sidestage.stage": name, "sidestage.items": items}
        if trail.key is not None:
            attributes["sidestage.key"] = trail.key
        span = self._tracer.start_span(
            name,
            context=self._context(trail.context),
            attributes=attributes,
            links=[self._trace.Link(each) for each in trail.others],
            start_time=ended - round(seconds * 1e9),
        )
        span.end(ended)
        return span.get_span_context()

    def _origin(self, trace: str) -> "SpanContext":
        """Return a parent that nobody recorded: so a trace gets the id that its item has."""
        flags = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        return self._trace.SpanContext(
            int(trace, 16), int(trace[:16], 16) or 1, is_remote=True, trace_flags=flags
        )

    def _context(self, parent: "SpanContext") -> Any:
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(parent))

    def _links(self, chunk: Chunk, incoming: Incoming | None) -> "list[Link]":
        """Return what leads to the trace that the first item came with."""
        if incoming is None:
            return []
        try:
            came_with = _parsed(incoming(chunk.items[0]))
        except Exception:  # noqa: BLE001 - a trace is never worth an item
            return []
        if came_with is None:
            return []
        trace, span, flags = came_with
        context = self._trace.SpanContext(
            trace, span, is_remote=True, trace_flags=self._trace.TraceFlags(flags)
        )
        return [self._trace.Link(context)]


class Trail:
    """How far the trace of a chunk has come. Immutable: copies of a chunk go separate ways.

    ``key`` is that of its items, if they have one and the same; ``others`` are traces that were put together
    with this one.
    """

    __slots__ = ("_root", "_spans", "context", "key", "others")

    def __init__(
        self,
        spans: Spans,
        root: "Span",
        context: "SpanContext",
        *,
        key: str | None = None,
        others: "tuple[SpanContext, ...]" = (),
    ) -> None:
        self._spans = spans
        self._root = root
        self.context = context
        self.key = key
        self.others = others

    def stage(self, name: str, items: int, seconds: float) -> "Trail":
        """Note that a stage is done; return how the trace goes on."""
        try:
            context = self._spans.stage(name, self, items, seconds)
        except Exception:  # noqa: BLE001 - of whoever takes the spans
            return self
        return Trail(self._spans, self._root, context, key=self.key)

    def failed(self, stage: str, trace: str | None, failure: str) -> None:
        """Note that a stage failed on an item, by the item's own trace id."""
        said = {"sidestage.stage": stage, "sidestage.trace": trace or "", "sidestage.failure_class": failure}
        with suppress(Exception):
            self._root.add_event("failed", said, self._spans.nanoseconds())

    def keyed(self, key: str | None) -> "Trail":
        """Return how the trace goes on with items of one key."""
        return Trail(self._spans, self._root, self.context, key=key, others=self.others)

    def together(self, others: "list[Trail]") -> "Trail":
        """Return how it goes on where chunks of several traces were put together."""
        contexts = tuple(other.context for other in others)
        return Trail(self._spans, self._root, self.context, key=None, others=contexts)


def _end(span: "Span") -> None:
    with suppress(Exception):
        span.end()


def together(trails: list[Trail]) -> Trail | None:
    """Return how traces go on that were put together: as the first, with links to the others."""
    if not trails:
        return None
    return trails[0].together(trails[1:]) if len(trails) > 1 else trails[0]


def _parsed(traceparent: str | None) -> tuple[int, int, int] | None:
    """Return trace, span and flags of a ``traceparent`` header, None if it is none."""
    if traceparent is None:
        return None
    version, trace, span, flags = traceparent.strip().split("-")[:4]
    if (len(version), len(trace), len(span), len(flags)) != (2, 32, 16, 2) or version == "ff":
        return None
    found = int(trace, 16), int(span, 16), int(flags, 16)
    return found if found[0] and found[1] else None
