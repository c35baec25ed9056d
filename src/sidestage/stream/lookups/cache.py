"""Lookups with a memory: a key is asked for once, and what was last known helps while nobody answers.

Keys come and answers go by the chunk. A chunk whose keys are all remembered costs one lock and a few loops in
the interpreter's own code. For the others the function is called outside the lock, once for a key, however
many items and workers want it.

A function that is asked for one key returns its value, None for an unknown one, or raises. A function that is
asked for many keys at once returns their values by key, leaves unknown ones out, and may give an exception
instead of a value where only that key failed; if it raises, all of them failed.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, cast, overload

from sidestage.clock import Clock
from sidestage.errors import TaskError
from sidestage.events import Listener
from sidestage.policy.breaker import Circuit, CircuitOpen
from sidestage.stream.lookups.desk import Cache, CacheSnapshot, Desk, Search
from sidestage.stream.lookups.shelf import Found

__all__ = ["Cache", "CacheSnapshot", "CoroutineLookup", "Found", "Lookup"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lookup(Generic[K, V]):
    """A plain function with a memory. Safe for threads.

    ``many``: the function is asked for many keys at once. While ``circuit`` is open no call is made; then,
    and when a call fails, the cache's makeshift answers are given. The listener hears a ``FallbackTurned``
    when that begins and ends, outside all locks.
    """

    @overload
    def __init__(
        self,
        name: str,
        function: Callable[[K], V | None],
        cache: Cache,
        clock: Clock,
        *,
        many: Literal[False] = False,
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        function: Callable[[Sequence[K]], Mapping[K, V]] | Callable[[Sequence[K]], Mapping[K, V | Exception]],
        cache: Cache,
        clock: Clock,
        *,
        many: Literal[True],
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Any],
        cache: Cache,
        clock: Clock,
        *,
        many: bool = False,
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._name = name
        self._function = function
        self._many = many
        self._clock = clock
        self._patience = cache.patience
        self._desk: Desk[K, V] = Desk(name, cache, clock, circuit, listener)

    def look_up(self, keys: Sequence[K]) -> list[Found[V]]:
        """Return an answer for each key, in their order. Never raises what the function raises.

        The function is called in the caller's thread; keys that another thread is asking for are waited for.
        """
        desk = self._desk
        found, search = desk.open(keys)
        while search is not None:
            try:
                self._ask(search)
                self._wait(search)
                search = desk.close(search, found)
            finally:
                desk.tell()
        return cast("list[Found[V]]", found)  # every place is filled by now

    def forget(self, keys: Sequence[K]) -> None:
        """Drop what is known about keys, because it has changed."""
        self._desk.forget(keys)

    def snapshot(self) -> CacheSnapshot:
        """Return what there is to see."""
        return self._desk.snapshot()

    def bound(self, entries: int) -> None:
        """Remember no more than so many keys from now on, nor more than the cache says."""
        self._desk.bound(entries)

    def sample(self, most: int) -> list[tuple[K, V | None]]:
        """Return some keys that are remembered, and their values."""
        return self._desk.sample(most)

    def __len__(self) -> int:
        return len(self._desk)

    def _ask(self, search: Search[K, V]) -> None:
        try:
            if self._many and search.mine:
                answer, called = self._call(tuple(search.mine))
                self._desk.settle_all(by_key(self._name, search.mine, answer), search, called=called)
            elif not self._many:
                for key in search.mine:
                    answer, called = self._call(key)
                    self._desk.settle(key, answer, search, called=called)
        finally:
            self._desk.abandon(search)  # those that were not answered, if anything

    def _call(self, argument: object) -> tuple[object, bool]:
        leave = self._desk.ask_leave()
        if isinstance(leave, CircuitOpen):
            return leave, False
        try:
            answer = self._function(argument)
        except BaseException as error:
            self._desk.judge(leave, error)
            if isinstance(error, Exception):
                return error, True
            raise
        self._desk.judge(leave, None)
        return answer, True

    def _wait(self, search: Search[K, V]) -> None:
        if not search.theirs:
            return
        deadline = self._clock.monotonic() + self._patience
        for key in search.theirs:
            over = threading.Event()
            self._desk.awaits(search.flights[key], over.set)
            if not over.wait(max(0.0, deadline - self._clock.monotonic())):
                return  # whoever is late gets an error for an answer


class CoroutineLookup(Generic[K, V]):
    """A coroutine function with a memory, for the tasks of one event loop. Otherwise as ``Lookup``."""

    @overload
    def __init__(
        self,
        name: str,
        function: Callable[[K], Awaitable[V | None]],
        cache: Cache,
        clock: Clock,
        *,
        many: Literal[False] = False,
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        function: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]
        | Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]],
        cache: Cache,
        clock: Clock,
        *,
        many: Literal[True],
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        function: Callable[[Any], Awaitable[Any]],
        cache: Cache,
        clock: Clock,
        *,
        many: bool = False,
        circuit: Circuit | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._name = name
        self._function = function
        self._many = many
        self._patience = cache.patience
        self._at_once = cache.at_once
        self._desk: Desk[K, V] = Desk(name, cache, clock, circuit, listener)

    async def look_up(self, keys: Sequence[K]) -> list[Found[V]]:
        """Return an answer for each key, in their order. Never raises what the function raises.

        Keys that another task is asking for are waited for; should that task be cancelled, they are asked for
        again.
        """
        desk = self._desk
        found, search = desk.open(keys)
        while search is not None:
            try:
                await self._ask(search)
                await self._wait(search)
                search = desk.close(search, found)
            finally:
                desk.tell()
        return cast("list[Found[V]]", found)  # every place is filled by now

    def forget(self, keys: Sequence[K]) -> None:
        """Drop what is known about keys, because it has changed."""
        self._desk.forget(keys)

    def snapshot(self) -> CacheSnapshot:
        """Return what there is to see."""
        return self._desk.snapshot()

    async def _ask(self, search: Search[K, V]) -> None:
        try:
            if self._many and search.mine:
                answer, called = await self._call(tuple(search.mine))
                self._desk.settle_all(by_key(self._name, search.mine, answer), search, called=called)
            elif len(search.mine) == 1:
                await self._ask_each(iter(search.mine), search)
            elif search.mine:
                waiting = iter(search.mine)
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._at_once, len(search.mine))):
                        group.create_task(self._ask_each(waiting, search))
        finally:
            self._desk.abandon(search)  # those that were not answered, if anything

    async def _ask_each(self, keys: Iterator[K], search: Search[K, V]) -> None:
        for key in keys:
            answer, called = await self._call(key)
            self._desk.settle(key, answer, search, called=called)

    async def _call(self, argument: object) -> tuple[object, bool]:
        leave = self._desk.ask_leave()
        if isinstance(leave, CircuitOpen):
            return leave, False
        try:
            answer = await self._function(argument)
        except BaseException as error:
            self._desk.judge(leave, error)
            if isinstance(error, Exception):
                return error, True
            raise
        self._desk.judge(leave, None)
        return answer, True

    async def _wait(self, search: Search[K, V]) -> None:
        if not search.theirs:
            return
        try:
            async with asyncio.timeout(self._patience):
                for key in search.theirs:
                    over = asyncio.Event()
                    self._desk.awaits(search.flights[key], over.set)
                    await over.wait()
        except TimeoutError:
            return  # whoever is late gets an error for an answer


def by_key(name: str, keys: Sequence[K], answer: object) -> dict[K, object]:
    """Return the answer for each key to a call for all of them; None for those it does not hold."""
    if isinstance(answer, Exception):
        return dict.fromkeys(keys, answer)
    if not isinstance(answer, Mapping):
        error = TaskError(
            f"Lookup {name!r} was asked for many keys and returned {type(answer).__name__}.",
            hint="Return a mapping of keys to values, without the keys that are unknown.",
        )
        return dict.fromkeys(keys, error)
    return {key: answer.get(key) for key in keys}
