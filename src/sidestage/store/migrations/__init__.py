"""Steps from each schema of the store to the next, in two phases.

A script is named ``r<number>_<phase>_<what>``. Numbers are given once, for both phases together; each phase
is a chain of its own, whose first script has no ``down_revision``.

- Phase ``pre`` only adds, so that processes of the previous release which have the store open keep working
  while it is applied. Opening a store with a newer release applies it.
- Phase ``post`` takes away what they needed: it belongs to the release whose code stopped using it, or to a
  later one, and is applied when a person says that no process of an earlier release is left. A ``pre`` of a
  later release may therefore run before it, and must not use a name again that a ``post`` frees.

Both are known to a store by their last revision, and a release refuses a store that has one it does not know.
So after either phase of a newer release an older one can no longer open the store, and says so.
"""

from collections.abc import Sequence
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import Connection

from sidestage.errors import SchemaMismatch


def scripts(folder: Path) -> ScriptDirectory:
    """Return the migration scripts that lie in the folder's ``versions``."""
    return ScriptDirectory(str(folder))


def migrate(connection: Connection, folder: Path, target: str, *, version_table: str) -> None:
    """Apply the steps up to revision ``target`` within the connection's transaction; the caller commits.

    Raises SchemaMismatch if there is no way from where the store is.
    """
    directory = scripts(folder)

    def steps(revision: object, _context: object) -> object:
        return directory._upgrade_revs(target, revision)  # type: ignore[arg-type]  # noqa: SLF001 - as its commands do

    with EnvironmentContext(Config(), directory, fn=steps) as environment:
        environment.configure(connection=connection, version_table=version_table, render_as_batch=True)
        try:
            environment.run_migrations()
        except RevisionError as error:
            raise SchemaMismatch(
                f"The store's schema cannot be migrated to {target}: {error}.",
                hint="Install the release of Sidestage that made it, then each later one in turn.",
            ) from error


def summaries(folder: Path, revisions: Sequence[str]) -> list[str]:
    """Return what each of the scripts does, in the first line of its own words."""
    directory = scripts(folder)
    found = [directory.get_revision(revision) for revision in revisions]
    return [script.doc for script in found]
