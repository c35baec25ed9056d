"""What the code of candidates declares, kept beside that code: comparing and promoting load no user code."""

import os
from pathlib import Path

import msgspec

from sidestage.errors import NotFound
from sidestage.pipeline.manifest import Manifest
from sidestage.store.records import Environment


class Manifests:
    """Manifests by the name of their code, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, code: str, manifest: Manifest) -> None:
        """Keep what a release of the code declares; code never changes under its name."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(code)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(msgspec.json.encode(manifest))
        unfinished.replace(path)

    def of(self, candidate: Environment) -> Manifest:
        """Return what a candidate's code declares. Raises NotFound."""
        path = self._path(candidate.code)
        if not path.exists():
            raise NotFound(
                f"What the code {candidate.code} declares is not known any more.",
                hint=f"Stage it again: sidestage stage --name {candidate.name}",
            )
        return msgspec.json.decode(path.read_bytes(), type=Manifest)

    def _path(self, code: str) -> Path:
        return self._folder / f"{code.replace(':', '-')}.json"
