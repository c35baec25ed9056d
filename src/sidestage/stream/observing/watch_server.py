"""A small HTTP server beside a stream: metrics for Prometheus, its phase for whoever supervises it."""

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec

from sidestage.events import Phase
from sidestage.stream.engine import Engine
from sidestage.stream.life.phases import RUNBOOK
from sidestage.stream.observing.exposition import CONTENT_TYPE

LOCAL = "127.0.0.1"
_HEALTHY: frozenset[Phase] = frozenset({"boot", "steady", "drain"})


class Health(msgspec.Struct, frozen=True):
    """What ``/healthz`` answers, as JSON."""

    stream: str
    phase: Phase
    runbook: str


class WatchServer:
    """Serves ``/metrics`` and ``/healthz`` of one run from a thread of its own. Use it with ``with``.

    ``port`` 0 takes a free one; ``url`` says which. ``/healthz`` answers 200 while the stream boots, is
    steady or drains, 503 afterwards. It asks nobody who they are: other hosts reach it only if ``host`` says
    so. Raises OSError if the port is taken.
    """

    def __init__(self, port: int, host: str = LOCAL) -> None:
        self._engine: Engine | None = None
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="stream watch", daemon=True
        )

    def show(self, engine: Engine) -> None:
        """Show this run from now on."""
        self._engine = engine

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Return the status, the type and the body for a path."""
        engine = self._engine
        if engine is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"Nothing runs yet.\n"
        match path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE, _metrics(engine).encode()
            case "/healthz":
                phase = engine.phase
                status = HTTPStatus.OK if phase in _HEALTHY else HTTPStatus.SERVICE_UNAVAILABLE
                health = Health(engine.life.stream, phase, f"{RUNBOOK}#{phase}")
                return status, "application/json", msgspec.json.encode(health)
        return HTTPStatus.NOT_FOUND, "text/plain", b"There are /metrics and /healthz.\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # of whoever connects and says nothing

            def do_GET(self) -> None:
                status, kind, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_what: Any) -> None:
                """Say nothing: it is asked every few seconds."""

        return Handler


def _metrics(engine: Engine) -> str:
    return (
        f"{engine.metrics()}"
        "# HELP pipeline_phase The phase that the stream is in is 1.\n"
        "# TYPE pipeline_phase gauge\n"
        f'pipeline_phase{{phase="{engine.phase}"}} 1\n'
    ) + _revoked(engine.revoked())


def _revoked(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    name = "pipeline_stage_revoked_total"
    head = f"# HELP {name} Items that were taken back on their way.\n# TYPE {name} counter\n"
    return head + "".join(f'{name}{{stage="{_escaped(stage)}"}} {count}\n' for stage, count in counts.items())


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
