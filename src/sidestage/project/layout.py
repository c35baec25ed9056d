"""Where a project's state lies."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from sidestage.pipeline.projectfile import ProjectFile
from sidestage.runtime.lifeline import scratch_name


class Layout(msgspec.Struct, frozen=True):
    """Folders of a project. All but the root may be removed only together."""

    root: Path
    state: Path
    store_url: str
    lake: Path

    @classmethod
    def of(cls, root: Path, file: ProjectFile) -> "Layout":
        """Return the layout that a project's file asks for."""
        state = (root / file.state.folder).resolve()
        lake = (root / file.state.lake).resolve() if file.state.lake else state / "lake"
        url = file.state.store or f"sqlite:///{state / 'catalog.db'}"
        return cls(root=root, state=state, store_url=url, lake=lake)

    @property
    def logs(self) -> Path:
        """What tasks printed, one file for each attempt that printed anything."""
        return self.state / "logs"

    @property
    def releases(self) -> Path:
        """Code of candidates, one folder each."""
        return self.state / "releases"

    @property
    def environments(self) -> Path:
        """Virtual environments that tasks asked for, by what they hold."""
        return self.state / "environments"

    @property
    def reports(self) -> Path:
        """Comparison reports."""
        return self.state / "reports"

    @property
    def services(self) -> Path:
        """What services keep on this host, one folder each: checkpoint, dead letters, log."""
        return self.state / "services"

    @property
    def locks(self) -> Path:
        """Locks of running pipelines, one file for each environment and pipeline."""
        return self.state / "locks"

    @property
    def scratch(self) -> Path:
        """Temporary files of running processes."""
        return self.state / "scratch"

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield a new folder for temporary files that is removed afterwards."""
        self.prepare()
        folder = self.scratch / scratch_name(uuid.uuid4().hex)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def prepare(self) -> None:
        """Create the state folder, and keep it out of version control."""
        for folder in (self.state, self.lake, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        ignore = self.state / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
