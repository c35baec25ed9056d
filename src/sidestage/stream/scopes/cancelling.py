"""Cancelling parts of a run: an item by its key, a worker, a stage with all that works for nothing else."""

from collections.abc import Callable, Hashable

from sidestage.errors import DefinitionError
from sidestage.stream.assembly import Assembly
from sidestage.stream.chunk import Chunk
from sidestage.stream.life.life import Life
from sidestage.stream.life.revoking import Revocation
from sidestage.stream.scopes.branches import branch_of
from sidestage.stream.scopes.events import (
    StageCancellation,
    StageCancelled,
    WorkerAtWork,
    WorkerCancellation,
)
from sidestage.stream.scopes.scope import Cancelled, Scope
from sidestage.stream.scopes.scopes import told


class Cancelling:
    """What can be taken out of a run while the rest of it goes on."""

    _assembly: Assembly
    life: Life

    def revoke(self, key: Hashable) -> Revocation:
        """Take back all items of a key that are under way, and those that come in the next time.

        Returns at once, and says how many are taken out and how many cannot be. Raises DefinitionError if
        nothing of the stream is ``revocable``, TypeError for a key that cannot be hashed.
        """
        return self._assembly.revoking.revoke(key)

    def revoked(self) -> dict[str, int]:
        """Return how many items were revoked so far, by revocable stage."""
        return {stage.name: stage.count for stage in self._assembly.revoking.stages.values()}

    def workers(self) -> tuple[WorkerAtWork, ...]:
        """Return the workers that ``cancel_worker`` could make give up something now, the longest first."""
        return self._assembly.scopes.at_work()

    def cancel_worker(
        self, stage: str, number: int, *, why: str = "request", by: str = ""
    ) -> WorkerCancellation:
        """Have one worker of a stage, counted from 1, give up the item in its hands, and replace it.

        A process is killed and started again, a coroutine is cancelled, and the call of a thread with a
        timeout is written off. The item fails with ``Cancelled``, of the class "cancelled", which is never
        retried and names who did it (``by``) and ``why``; the stage's ``on_error`` decides about it. All
        other items go on. Waits until that is done. Raises DefinitionError if there is no such worker, or if
        it is a thread without a timeout, SidestageError if it does not give up within 5 seconds.
        """
        self._require_running()
        return self._assembly.scopes.cancel_worker(stage, number, why, by)

    def cancel_stage(self, stage: str, *, why: str = "request", by: str = "") -> StageCancellation:
        """End a branch: a stage with all that only it feeds, and all that works for nothing but it.

        What waits there and what still comes is settled and counted as cancelled, what its workers have in
        hand is given up where that can be, and its sinks are closed. The rest of the stream goes on; this
        run only. Raises DefinitionError, and does nothing, if there is no such stage, if all that a source
        gives would be lost, or for a sink with transactions.
        """
        self._require_running()
        with self._assembly.scopes.ending:
            return self._cancel_stage(stage, why, by)

    def _cancel_stage(self, stage: str, why: str, by: str) -> StageCancellation:
        assembly, scopes, layout = self._assembly, self._assembly.scopes, self._assembly.layout
        ended = [node for node, scope in scopes.of.items() if scope.error is not None]
        node = scopes.node(stage)
        if node in ended:
            return StageCancellation(stage, (), (), 0, 0)
        branch = branch_of(layout, node, ended)
        names = branch.names(layout)
        error = Cancelled(f"the stage {stage} was cancelled{told(by, why)}")
        for each in branch.nodes:
            scopes.of[each].error = error
        waiting = sum(assembly.shut(each, _drop_at(scopes.of[each])) for each in branch.nodes)
        for pacing in map(assembly.paces.of_joins.get, branch.nodes):
            if pacing is not None:
                pacing.release()
        workers = scopes.ask_all(branch.nodes, error)
        scopes.tell(StageCancelled(assembly.clock.now(), stage, names, by, why))
        return StageCancellation(stage, names, branch.sinks(layout), waiting, workers)

    def _require_running(self) -> None:
        if self.life.is_over:
            raise DefinitionError(
                "The stream does not run: there is nothing to cancel.", hint="Call start() before."
            )


def _drop_at(scope: Scope) -> Callable[[Chunk], None]:
    def drop(chunk: Chunk) -> None:
        scope.give_up(len(chunk.items))
        chunk.settle()

    return drop
