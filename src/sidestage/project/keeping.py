"""What a worker does for services: it looks after them in a thread, beside the steps that it serves."""

import threading
from collections.abc import Callable

from sidestage.clock import Clock, host_uptime
from sidestage.errors import SidestageError, StoreError
from sidestage.pipeline.manifest import Manifest
from sidestage.project.keeper import Holder, Keeper, Site
from sidestage.project.layout import Layout
from sidestage.run.crew import worker_environment
from sidestage.run.crews import Crews, Home
from sidestage.run.service_messages import Serve
from sidestage.run.service_process import ServiceChild, ServiceProcess
from sidestage.runtime.lifeline import this_process
from sidestage.store.contract import Store

_LOOK_SECONDS = 0.2
_LEASES = 2.0
"""How many leases of a step the one of a service lasts: to be stopped for nothing costs it more."""


class Keeping:
    """Keeps the services that a project's code declares, once it is loaded.

    ``queues`` empty: those of every queue. ``say`` hears a message and a hint.
    """

    def __init__(
        self,
        store: Store,
        layout: Layout,
        clock: Clock,
        lease: float,
        queues: tuple[str, ...],
        say: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._layout = layout
        self._clock = clock
        self._lease = lease * _LEASES
        self._queues = queues
        self._say = say
        self._thread: threading.Thread | None = None
        self._turn = threading.Condition()
        self._signals = 0
        self._over = False
        self._error: BaseException | None = None
        self._trouble = ""

    def look(self, crew: Crews) -> None:
        """Begin, once it is known what the code declares. Never waits. Raises what ended the thread."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._over or self._thread is not None:
            return
        try:
            manifest = crew.manifest(Home(str(self._layout.root)))
        except SidestageError as error:
            self._over = True
            self._say(f"Services are left to other workers: {error.message}", error.hint)
            return
        if manifest is not None:
            self._begin(manifest)

    def drain(self) -> None:
        """Take nothing more, and drain what runs."""
        self._press(1)

    def cancel(self) -> None:
        """Take nothing more, and cancel what runs."""
        self._press(2)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held any more, after ``drain``."""
        return self._thread is None or not self._thread.is_alive()

    def close(self, *, within: float) -> None:
        """Cancel what still runs, and end it after so many seconds."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(within)
            with self._turn:
                self._over = True
                self._turn.notify()
            self._thread.join()

    def _press(self, times: int) -> None:
        with self._turn:
            self._signals = max(self._signals, times)
            self._over = self._over or self._thread is None
            self._turn.notify()

    def _begin(self, manifest: Manifest) -> None:
        specs = [
            service
            for pipeline in manifest.pipelines
            for service in pipeline.services
            if not self._queues or service.queue in self._queues
        ]
        if not specs:
            self._over = True
            return
        holder = Holder(this_process(), self._lease, host_uptime().seconds)
        site = Site(self._layout.root, self._layout.services)
        keeper = Keeper(self._store, self._clock, holder, site, specs, _start, self._say)
        # Processes die with the thread that started them: it lives as long as the last of them.
        self._thread = threading.Thread(target=self._keep, args=(keeper,), name="services", daemon=True)
        self._thread.start()

    def _keep(self, keeper: Keeper) -> None:
        heeded = 0
        try:
            while not self._over and not (heeded and keeper.is_idle):
                for _ in range(self._signals - heeded):
                    keeper.drain()
                    heeded += 1
                self._look(keeper)
                with self._turn:
                    if not self._over and self._signals == heeded:
                        self._turn.wait(_LOOK_SECONDS)
        except BaseException as error:  # noqa: BLE001 - raised by look, in the thread that can do something
            self._error = error
        finally:
            self._end(keeper)

    def _look(self, keeper: Keeper) -> None:
        try:
            keeper.look()
            self._trouble = ""
        except StoreError as error:
            # What runs hears nothing now, and stops in time if that lasts.
            if error.message != self._trouble:
                self._trouble = error.message
                self._say(error.message, error.hint)

    def _end(self, keeper: Keeper) -> None:
        try:
            keeper.end()
        except StoreError as error:
            self._say(f"Services were not given back: {error.message}", "Their leases end by themselves.")


def _start(request: Serve) -> ServiceChild:
    return ServiceProcess(request, worker_environment(1))
