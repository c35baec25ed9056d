"""The code of a candidate, laid out in a folder of its own.

``git:REF`` is a commit, checked out into its own worktree; ``.`` is the working tree as it is, copied. Either
way the folder is immutable from then on and is named after what it holds, so that the same code is laid out
once.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidestage.errors import ConfigurationError, NotFound

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_OF_ANOTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"}
)
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv"})


class Code(msgspec.Struct, frozen=True):
    """One release of a project's code.

    ``name`` is ``git:<commit>`` or ``tree:<digest>``, ``label`` what the user called it, ``root`` the
    project's root folder within it.
    """

    name: str
    label: str
    root: str


def lay_out(spec: str, root: Path, releases: Path) -> Code:
    """Return the code that a user names by ``git:REF`` or ``.``, laid out below ``releases``.

    Raises NotFound if there is no such commit, ConfigurationError if the project is in no repository.
    """
    if spec == ".":
        return _copy_tree(root, releases)
    if spec.startswith("git:") and len(spec) > len("git:"):
        return _check_out(spec.removeprefix("git:"), root, releases)
    raise ConfigurationError(
        f"The code {spec!r} is neither a git reference nor the working tree.",
        hint="Write --code git:BRANCH (or a tag or commit), or --code . for the working tree as it is.",
    )


def find_laid_out(name: str, root: Path, releases: Path) -> Path | None:
    """Return the project's folder in code that was laid out by its name before, None if it was not."""
    kind, _, digest = name.partition(":")
    if kind == "tree":
        folder = releases / f"tree-{digest}"
        return folder if folder.is_dir() else None
    if not (releases / f"git-{digest[:16]}.ready").exists():
        return None
    top = Path(_git(root, "rev-parse", "--show-toplevel").strip())
    return releases / f"git-{digest[:16]}" / root.resolve().relative_to(top.resolve())


def name_of_working_tree(root: Path) -> str:
    """Return a name for the code in the working tree: its commit, and whether it was changed since."""
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", ".").strip()
    except ConfigurationError:
        return "tree"
    return f"git:{commit}{'+changes' if changed else ''}"


def _check_out(ref: str, root: Path, releases: Path) -> Code:
    top = Path(_git(root, "rev-parse", "--show-toplevel").strip())
    commit = _commit(ref, root, top)
    folder = releases / f"git-{commit[:16]}"
    done = releases / f"git-{commit[:16]}.ready"
    if not (done.exists() and folder.is_dir()):
        releases.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # an earlier checkout was interrupted
            shutil.rmtree(folder)
        _git(root, "worktree", "prune")
        # Twice: once for a folder that git knows, once more for one that it locked and was killed over.
        _git(root, "worktree", "add", "--force", "--force", "--detach", str(folder), commit)
        done.touch()
    place = root.resolve().relative_to(top.resolve())
    if not (folder / place).is_dir():
        raise NotFound(
            f"The commit {commit[:16]} has no folder {place.as_posix()}, where this project is now.",
            hint=f"Name a later commit; see: git log -- {place.as_posix()}",
        )
    return Code(name=f"git:{commit}", label=ref, root=str(folder / place))


def _commit(ref: str, root: Path, top: Path) -> str:
    found = ""
    # What cannot be an argument of a program at all (a null, half a character) raises ValueError.
    with contextlib.suppress(ConfigurationError, ValueError):
        found = _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"
        ).strip()
    if not _COMMIT.fullmatch(found):
        raise NotFound(f"There is no commit, branch or tag {ref!r} in {top}.", hint="See: git branch --all")
    return found


def _copy_tree(root: Path, releases: Path) -> Code:
    files = sorted({file.relative_to(root) for file in _files_of(root)})
    name = _digest(root, files)
    if not (releases / f"tree-{name}").is_dir():
        releases.mkdir(parents=True, exist_ok=True)
        name = _copy(root, files, releases)
    return Code(name=f"tree:{name}", label="working tree", root=str(releases / f"tree-{name}"))


def _copy(root: Path, files: list[Path], releases: Path) -> str:
    """Copy files into a folder named after what was copied, which they may not be when it began."""
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=releases) as unfinished:
        copy = Path(unfinished) / "tree"
        copy.mkdir()
        for file in files:
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / file, copy / file)
        name = _digest(copy, files)
        target = releases / f"tree-{name}"
        try:
            copy.rename(target)
        except OSError:
            if not target.is_dir():  # else another process laid out the same just now
                raise
    return name


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.as_posix()) + b"\0")
        digest.update(hashlib.sha256((root / file).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files_of(root: Path) -> Iterator[Path]:
    """Yield the files that are code: what git tracks or would track, else all but hidden and cached ones."""
    listed = ""
    with contextlib.suppress(ConfigurationError):
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    if not listed:  # no repository, or one that ignores this folder
        yield from _walk(root)
        return
    for name in listed.split("\0"):
        path = root / name
        if name and path.is_file():
            yield path


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name in _SKIPPED_FOLDERS:
            continue
        if entry.is_dir() and not entry.is_symlink():
            if not _ignores_itself(entry):
                yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _ignores_itself(folder: Path) -> bool:
    """Whether a folder says that it is no code, as state folders, caches and virtual environments do."""
    mark = folder / ".gitignore"
    return mark.is_file() and "*" in mark.read_text(encoding="utf-8", errors="replace").splitlines()


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            check=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY},
        )
    except FileNotFoundError:
        raise ConfigurationError("The program git is not installed.", hint="Install git.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(
            f"git {arguments[0]} failed in {root}: {error.stderr.strip() or 'no message'}.",
            hint="Candidates are git commits: is the project in a repository? (git init, git commit)",
        ) from None
    return done.stdout
