"""A stage that looks something up for each item, and remembers what it found."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, NoReturn

from sidestage.stream.chunk import Chunk
from sidestage.stream.failing import Desk, Kept, Stopped, WorkerDied
from sidestage.stream.lookups.cache import Found, Lookup
from sidestage.stream.observing.metrics import Meter
from sidestage.stream.operators import Onward, Step


class LookupOperator(Onward):
    """Makes one item of each and of what was found for its key: known, unknown, stale or a default.

    An item is an error of this stage if its key cannot be had, nothing was found for it and no makeshift
    answer either, or ``put`` fails.
    """

    def __init__(
        self,
        key: Callable[[Any], Any],
        lookup: Lookup[Any, Any],
        put: Callable[[Any, Found[Any]], Any],
        desk: Desk,
        meter: Meter,
        following: Step,
    ) -> None:
        super().__init__(meter, following)
        self._key = key
        self._lookup = lookup
        self._put = put
        self._desk = desk

    def push(self, chunk: Chunk) -> None:
        """Take a chunk."""
        began = perf_counter()
        items, put = chunk.items, self._put
        made: list[Any] = []
        keep = made.append
        gone: list[int] = []
        for item, found in zip(items, self._found(items), strict=True):
            try:
                keep(put(item, found if found.kind != "failed" else _raised(found)))
            except BaseException as error:  # noqa: BLE001 - the one item is all that is lost
                index = len(made) + len(gone)
                kept: Kept = self._desk.meet(chunk, index, item, error, self._one)
                if kept.gone:
                    gone.append(index)
                else:
                    keep(kept.value)
        chunk.become(made, gone)
        self._hand_on(chunk, len(items), began)

    def _found(self, items: list[Any]) -> list[Found[Any]]:
        """Return what there is for each item; the errors of keys are found, too."""
        try:
            return self._lookup.look_up(list(map(self._key, items)))
        except Stopped:
            raise
        except BaseException:  # noqa: BLE001 - of some item's key
            return [self._found_one(item) for item in items]

    def _found_one(self, item: Any) -> Found[Any]:
        try:
            return self._lookup.look_up([self._key(item)])[0]
        except Exception as error:  # noqa: BLE001
            return Found(None, "failed", error)
        except Stopped:
            raise
        except BaseException as death:  # noqa: BLE001
            return Found(None, "failed", WorkerDied(f"its worker would have ended: {death!r}"))

    def _one(self, item: Any) -> Any:
        found = self._found_one(item)
        return self._put(item, found if found.kind != "failed" else _raised(found))


def _raised(found: Found[Any]) -> NoReturn:
    """Raise the error of a key for which there is nothing."""
    assert found.error is not None
    raise found.error
