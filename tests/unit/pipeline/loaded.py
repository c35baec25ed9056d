"""Loads little projects in this process and leaves nothing of them behind."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sidestage.pipeline.graph import Graph
from sidestage.pipeline.loading import describe, load
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import CodeSection, ProjectFile

FILE = ProjectFile(project=CodeSection(name="demo", pipelines=("flow",)))


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write a project's files; paths without a folder go to ``src``."""
    for name, text in files.items():
        path = root / (name if "/" in name or not name.endswith((".py", ".sql")) else f"src/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@contextmanager
def loaded(root: Path, file: ProjectFile = FILE) -> Iterator[Graph]:
    """Load a project; forget its modules afterwards."""
    before, path = set(sys.modules), list(sys.path)
    importlib.invalidate_caches()
    try:
        yield load(root, file)
    finally:
        sys.path[:] = path
        own = str(root.resolve())
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
            if any(place.startswith(own) for place in places):
                del sys.modules[name]


def manifest_of(root: Path, files: Mapping[str, str], file: ProjectFile = FILE) -> Manifest:
    """Return what a project with these files declares."""
    with loaded(write(root, files), file) as graph:
        return describe(graph, root, file)
