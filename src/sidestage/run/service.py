"""The process of a service: loads the project's code, and runs one stream until it is told to stop.

It holds no catalog. SIGTERM drains the stream, SIGINT after it cancels it; it cancels itself when its worker
does not tell it to go on. Started as ``python -u -m sidestage.run.service PARENT_PID DESCRIPTOR``; what it
and the code print is the service's log.
"""

import sys
import threading
import traceback
from contextlib import ExitStack
from pathlib import Path

import msgspec

from sidestage.clock import SystemClock, host_uptime
from sidestage.errors import ConfigurationError
from sidestage.events import Event
from sidestage.pipeline.loading import describe, load
from sidestage.pipeline.projectfile import read_project_file
from sidestage.pipeline.service import Service, ServiceContext
from sidestage.run.service_messages import Broke, Finished, FromService, OtherCode, Serve, ToService, Turned
from sidestage.run.tether import LOST, Tether
from sidestage.runtime.channel import Channel, adopt
from sidestage.runtime.lifeline import end_with_parent
from sidestage.stream.checkpoint import Checkpoint
from sidestage.stream.contract import TransactionalSink
from sidestage.stream.engine import Engine
from sidestage.stream.flow import Flow
from sidestage.stream.letters.file import LetterFile
from sidestage.stream.life.phases import TURNS, StreamTurned
from sidestage.stream.life.signals import serve
from sidestage.stream.observing.watch_server import WatchServer
from sidestage.stream.settings import Ended

CHECKPOINT = "checkpoint"
LETTERS = "letters.jsonl"
_PHASES = {kind: phase for phase, kind in TURNS.items()}


def main(arguments: list[str]) -> int:
    """Run the service that the parent names."""
    parent, descriptor = arguments[1:3]
    end_with_parent(int(parent))
    channel = adopt(int(descriptor))
    received = channel.receive()
    request = None if received is None else msgspec.json.decode(received, type=ToService)
    if not isinstance(request, Serve):
        return 0
    serving = Serving(channel, request)
    tether = Tether(channel, host_uptime().seconds, request.word, serving.cancel)
    tether.start()
    try:
        answer = serving.answer()
    finally:
        tether.end()
    serving.tell(answer)
    return LOST if tether.is_lost else 0


class Serving:
    """One service in this process."""

    def __init__(self, channel: Channel, request: Serve) -> None:
        self._channel = channel
        self._request = request
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._is_cancelled = False
        self._url = ""

    def answer(self) -> FromService:
        """Run the service to its end, and return what became of it."""
        try:
            found = self._load()
            if isinstance(found, OtherCode):
                return found
            return Finished(self._serve(found).complete)
        except BaseException as error:  # noqa: BLE001 - the code may raise anything, also SystemExit
            traceback.print_exc()
            return Broke(f"{type(error).__name__}: {error}"[:2000])

    def cancel(self) -> None:
        """Stop as soon as may be: nobody says any more that this process may go on."""
        with self._lock:
            self._is_cancelled = True
            engine = self._engine
        if engine is not None:
            engine.cancel("its worker does not tell it to go on")

    def tell(self, message: FromService) -> None:
        """Tell the parent, if it is still there."""
        with self._lock:
            try:
                self._channel.send(msgspec.json.encode(message))
            except OSError:
                return

    def _load(self) -> Service | OtherCode:
        root = Path(self._request.root)
        file = read_project_file(root)
        graph = load(root, file)
        manifest = describe(graph, root, file)
        specs = {spec.id: spec for pipeline in manifest.pipelines for spec in pipeline.services}
        spec = specs.get(self._request.service)
        if spec is None or spec.fingerprint != self._request.fingerprint:
            return OtherCode("" if spec is None else spec.fingerprint)
        name = self._request.service.partition(".")
        pipeline = next(each for each in graph.pipelines if each.name == name[0])
        return pipeline.services[name[2]]

    def _serve(self, service: Service) -> Ended:
        folder = Path(self._request.folder)
        flow = service.flow(ServiceContext(self._request.service, folder))
        if not isinstance(flow, Flow):
            raise ConfigurationError(
                f"{service.location}: the service {service.name!r} returned {type(flow).__name__}, no flow.",
                hint="A flow is what Stream(...).to(sink) returns.",
            )
        with ExitStack() as stack:
            letters = stack.enter_context(LetterFile(folder / LETTERS))
            server = stack.enter_context(WatchServer(service.terms.port))
            self._url = f"{server.url}/metrics"

            def begin() -> Engine:
                engine = flow.engine(
                    fail=service.terms.fail,
                    dead_letters=letters,
                    checkpoint=None if _keeps_progress(flow) else Checkpoint(folder / CHECKPOINT),
                    listener=self._hear,
                )
                server.show(engine)
                self._take(engine)
                return engine

            return serve(begin, flow.settings.restart, SystemClock(), service.terms.grace)

    def _take(self, engine: Engine) -> None:
        with self._lock:
            self._engine = engine
            is_cancelled = self._is_cancelled
        if is_cancelled:
            engine.cancel("its worker does not tell it to go on")

    def _hear(self, event: Event, /) -> None:
        line = msgspec.json.encode({"type": type(event).__name__, **msgspec.to_builtins(event)})
        sys.stdout.write(line.decode() + "\n")
        if isinstance(event, StreamTurned) and type(event) in _PHASES:
            self.tell(Turned(_PHASES[type(event)], self._url))


def _keeps_progress(flow: Flow) -> bool:
    return any(isinstance(node.sink, TransactionalSink) for node in flow.sinks)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
