"""From items to the numbers of their keys, and from those to whoever is to have them."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Default, Desk, OnError, shown
from sidestage.stream.keys.spreading import require_key
from sidestage.stream.mailbox import Mailbox
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import End


class Numbers:
    """The number of each item's key: equal keys have the same.

    Where ``on_error`` names a default, items whose key cannot be had are of that. Raises DefinitionError if
    it is no key.
    """

    def __init__(
        self, key: Callable[[Any], Any], spread: Callable[[Any], int], on_error: OnError | None, stage: str
    ) -> None:
        self.key = key
        self.spread = spread
        self._default: int | None = None
        if isinstance(on_error, Default):
            self._default = require_key(on_error.value, spread, stage)

    def of(self, item: Any) -> int:
        """Return the number of an item's key. Raises what that raises."""
        return self.spread(self.key(item))

    def after(self, error: BaseException, chunk: Chunk, index: int, desk: Desk) -> int | None:
        """Return the number of an item whose key could not be had after all; None if it goes no further."""
        kept = desk.meet(chunk, index, chunk.items[index], error, lambda item: _Number(self.of(item)))
        if kept.gone:
            return None
        return kept.value.value if isinstance(kept.value, _Number) else self._default

    def again(self, item: Any) -> int | None:
        """Return the number of an item that came by before; its errors were told then."""
        try:
            return self.of(item)
        except BaseException:  # noqa: BLE001 - told before
            return self._default


class _Number(NamedTuple):
    """A number that could be had when it was tried again, and not the default."""

    value: int


class Outlets(Protocol):
    """Those who take the parts of a chunk, counted from zero."""

    def __len__(self) -> int: ...

    def send(self, parts: Sequence[tuple[int, Chunk]]) -> None:
        """Give each its part. Raises Stopped."""
        ...

    def flush(self) -> None:
        """Have all pass on what they hold."""
        ...

    def finish(self) -> None:
        """Tell all that nothing more comes."""
        ...


class MailboxOutlets:
    """A mailbox for each part: all items of a key are with one worker, in the order of the stream."""

    def __init__(self, mailboxes: Sequence[Mailbox]) -> None:
        self._mailboxes = mailboxes

    def __len__(self) -> int:
        return len(self._mailboxes)

    def send(self, parts: Sequence[tuple[int, Chunk]]) -> None:
        """Give each its part. Raises Stopped."""
        for which, chunk in parts:
            self._mailboxes[which].push(chunk)

    def flush(self) -> None:
        """Have all pass on what they hold."""
        for mailbox in self._mailboxes:
            mailbox.flush()

    def finish(self) -> None:
        """Tell all that nothing more comes."""
        for mailbox in self._mailboxes:
            mailbox.finish()


class KeyedOutlet(End):
    """Takes chunks apart by key, into ``into`` parts, or fewer if there are fewer ``to``."""

    def __init__(self, numbers: Numbers, into: int, to: Outlets, desk: Desk, meter: Meter) -> None:
        self._numbers = numbers
        self._into = into
        self._to = to
        self._desk = desk
        self._meter = meter

    def push(self, chunk: Chunk) -> None:
        """Take a chunk apart."""
        began = perf_counter()
        count = len(self._to)
        parts: list[list[Any]] = [[] for _ in range(count)]
        labels: list[list[int]] = [[] for _ in range(count)]
        origins = range(len(chunk.items)) if chunk.origins is None else chunk.origins
        key, spread, into = self._numbers.key, self._numbers.spread, self._into
        for index, item in enumerate(chunk.items):
            try:
                number = spread(key(item))
            except BaseException as error:  # noqa: BLE001
                after = self._numbers.after(error, chunk, index, self._desk)
                if after is None:
                    continue
                number = after
            which = number % into % count
            parts[which].append(item)
            labels[which].append(origins[index])
        self._meter.took(len(chunk.items), perf_counter() - began)
        single = len(chunk.tickets) == 1
        made = [
            (which, Chunk(items, chunk.tickets, chunk.born, labels[which] if single else None))
            for which, items in enumerate(parts)
            if items
        ]
        trail = self._meter.trail(chunk)
        if trail is not None:
            for _, part in made:
                part.trail = trail.keyed(self._only_key(part.items))
        chunk.hold(len(made))
        self._to.send(made)
        chunk.settle()

    def _only_key(self, items: list[Any]) -> str | None:
        """Return what the key of items looks like, if there is but one."""
        try:
            return shown(self._numbers.key(items[0])) if len(items) == 1 else None
        except Exception:  # noqa: BLE001 - it was an error of this stage already
            return None

    def flush(self) -> None:
        """Have all pass on what they hold."""
        self._to.flush()

    def finish(self) -> None:
        """Tell all that nothing more comes."""
        self._to.finish()
