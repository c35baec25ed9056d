"""Steps from each schema of the store to the next.

A script is named ``r<number>_<phase>_<what>``. Phase ``pre`` only adds, so processes of the previous release
keep working while it is applied; phase ``post`` takes away what they needed, and therefore belongs to a later
release than the code that stopped using it.
"""

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
