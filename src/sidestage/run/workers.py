"""The warm workers of one run: started once, restarted when they die, stopped with the run."""

import os
from collections import deque
from pathlib import Path

import msgspec

from sidestage import errors
from sidestage.pipeline.manifest import Manifest
from sidestage.run.messages import Execute, Failed, FromWorker, Load, Loaded, LoadFailed, Written
from sidestage.runtime.process import ChildProcess, died_of, ready

_AHEAD = 2
"""Requests a worker is given at most: one that it runs, one that waits, so that it never idles while the
first one is being published."""

_MOST_FAILED_STARTS = 3


class Answered(msgspec.Struct, frozen=True):
    """A worker's answer to a request."""

    request: Execute
    answer: Written | Failed


class WorkerDied(msgspec.Struct, frozen=True):
    """A worker was lost. ``running`` is what it was doing, ``waiting`` what it had not begun."""

    running: Execute | None
    waiting: tuple[Execute, ...]
    how: str


class _Worker:
    def __init__(self, child: ChildProcess) -> None:
        self.child = child
        self.requests: deque[Execute] = deque()
        self.loaded = False


class Workers:
    """A fixed number of worker processes that all run one release of the code.

    ``code`` is the root of the project's files of that release; ``setup`` says where data lies.
    """

    def __init__(self, count: int, code: Path, setup: Load) -> None:
        self._code = code
        self._setup = setup
        self._environment = _environment(count)
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self.manifest: Manifest | None = None
        try:
            for _ in range(count):
                self._workers.append(self._start())
        except BaseException:
            self.kill()
            raise

    def load(self) -> Manifest:
        """Wait for the first worker to load the code; return what it declares. Raises what loading raised."""
        while (message := self._workers[0].child.receive()) is None:
            self._replace(self._workers[0])
        self._workers[0].loaded = True
        self.manifest = _loaded(message)
        return self.manifest

    @property
    def free(self) -> int:
        """How many requests the workers can take now."""
        return sum(_AHEAD - len(worker.requests) for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether any worker has something to do."""
        return any(worker.requests for worker in self._workers)

    def submit(self, request: Execute) -> None:
        """Give a request to the worker that has the least to do."""
        worker = min(self._workers, key=lambda candidate: len(candidate.requests))
        worker.requests.append(request)
        worker.child.send(msgspec.json.encode(request))

    def collect(self, timeout: float) -> list[Answered | WorkerDied]:
        """Return what workers answered, waiting up to ``timeout`` seconds for the first answer.

        A worker that died is replaced. Raises what loading raised, if a worker could not load the code.
        """
        found: list[Answered | WorkerDied] = []
        by_child = {worker.child: worker for worker in self._workers}
        for child in ready([worker.child for worker in self._workers], timeout):
            worker = by_child[child]
            message = child.receive()
            if message is None:
                found.append(self._replace(worker))
            elif not worker.loaded:
                worker.loaded = True
                self._require_same_code(_loaded(message))
            else:
                found.append(Answered(worker.requests.popleft(), _answer(message)))
        return found

    def kill(self) -> None:
        """End all workers at once, whatever they are doing."""
        for worker in self._workers:
            worker.child.end()
        self._workers.clear()

    def _require_same_code(self, manifest: Manifest) -> None:
        """Refuse a worker that found other code than the first one: it would publish under a wrong name."""
        if self.manifest is None:
            return
        first, found = _fingerprints(self.manifest), _fingerprints(manifest)
        changed = sorted(task for task in first.keys() | found.keys() if first.get(task) != found.get(task))
        if changed:
            raise errors.StaleWorld(
                f"The code of {', '.join(changed)} was changed while it ran.",
                hint="What was published was made by the code before; run again for the rest.",
            )

    def _start(self) -> _Worker:
        child = ChildProcess(
            "sidestage.run.child",
            [str(os.getpid()), self._setup.scratch],
            directory=self._code,
            environment=self._environment,
        )
        child.send(msgspec.json.encode(self._setup))
        return _Worker(child)

    def _replace(self, worker: _Worker) -> WorkerDied:
        how = died_of(worker.child.ended())
        requests = tuple(worker.requests)
        began = worker.loaded and bool(requests)
        self._failed_starts = 0 if worker.loaded else self._failed_starts + 1
        if self._failed_starts > _MOST_FAILED_STARTS:
            raise errors.ConfigurationError(
                f"Workers keep dying while they load the code (the last one {how}).",
                hint="Import the pipeline's module by hand to see why.",
            )
        self._workers[self._workers.index(worker)] = self._start()
        return WorkerDied(
            running=requests[0] if began else None, waiting=requests[1:] if began else requests, how=how
        )


def _fingerprints(manifest: Manifest) -> dict[str, str]:
    return {task.id: task.fingerprint for task in manifest.tasks}


def _loaded(message: bytes) -> Manifest:
    answer = msgspec.json.decode(message, type=FromWorker)
    _raise_if_failed(answer)
    assert isinstance(answer, Loaded)
    return answer.manifest


def _answer(message: bytes) -> Written | Failed:
    answer = msgspec.json.decode(message, type=FromWorker)
    _raise_if_failed(answer)  # a worker that loaded the code may still find no room to work in
    assert isinstance(answer, Written | Failed)
    return answer


def _raise_if_failed(answer: FromWorker) -> None:
    if isinstance(answer, LoadFailed):
        kind = getattr(errors, answer.kind, errors.ConfigurationError)
        error: errors.SidestageError = kind(answer.message, hint=answer.hint)
        error.add_note(answer.trace)
        raise error


def _environment(count: int) -> dict[str, str]:
    """Return the workers' environment: ours, with thread pools that share the processors among them."""
    threads = str(max(1, (os.cpu_count() or 1) // count))
    pools = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(pools, threads), **os.environ}
