"""Waiting for many processes at once, without telling the system anew each time which."""

import contextlib
import selectors
from typing import Generic, Protocol, TypeVar


class Heard(Protocol):
    """Somebody who is heard on some descriptors."""

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors to listen on, the same each time."""
        ...


H = TypeVar("H", bound=Heard)


class Poller(Generic[H]):
    """Tells who is to be heard."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell: int | None = None

    def wake_by(self, descriptor: int | None) -> None:
        """Let waiting end when a descriptor is readable, which is nobody's, in place of any one before."""
        if self._bell is not None:
            # Its owner may have closed it by now, and the system have forgotten it.
            with contextlib.suppress(KeyError, OSError, ValueError):
                self._selector.unregister(self._bell)
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ, None)
        self._bell = descriptor

    def watch(self, who: H) -> None:
        """Listen to somebody from now on."""
        for descriptor in who.descriptors():
            if descriptor == self._bell:  # its owner closed it, and the number is another one's now
                self.wake_by(None)
            self._selector.register(descriptor, selectors.EVENT_READ, who)

    def forget(self, who: H) -> None:
        """Listen to somebody no more, while the descriptors are still open."""
        for descriptor in who.descriptors():
            self._selector.unregister(descriptor)

    def forget_descriptor(self, descriptor: int) -> None:
        """Listen on one descriptor no more."""
        self._selector.unregister(descriptor)

    def ready(self, timeout: float) -> list[tuple[H, int]]:
        """Return who has something to say, and on which descriptor, waiting up to ``timeout`` seconds."""
        return [(key.data, key.fd) for key, _ in self._selector.select(timeout) if key.data is not None]

    def close(self) -> None:
        """Stop listening."""
        self._selector.close()
