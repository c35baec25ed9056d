"""The code of a candidate, laid out in a folder of its own.

``git:REF`` is a commit, checked out into its own worktree; ``.`` is the working tree as it is, copied. Either
way the folder is immutable from then on and is named after what it holds, so that the same code is laid out
once.
"""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidestage.errors import ConfigurationError, NotFound

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
    try:
        commit = _git(
            root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"
        ).strip()
    except ConfigurationError:
        raise NotFound(
            f"There is no commit, branch or tag {ref!r} in {top}.", hint="See: git branch --all"
        ) from None
    folder = releases / f"git-{commit[:16]}"
    done = releases / f"git-{commit[:16]}.ready"
    if not done.exists():
        releases.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # an earlier checkout was interrupted
            shutil.rmtree(folder)
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--force", "--detach", str(folder), commit)
        done.touch()
    inside = folder / root.resolve().relative_to(top.resolve())
    return Code(name=f"git:{commit}", label=ref, root=str(inside))


def _copy_tree(root: Path, releases: Path) -> Code:
    files = sorted(_files_of(root))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    name = digest.hexdigest()[:16]
    folder = releases / f"tree-{name}"
    if not folder.exists():
        unfinished = releases / f"tree-{name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for file in files:
            target = unfinished / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        unfinished.rename(folder)
    return Code(name=f"tree:{name}", label="working tree", root=str(folder))


def _files_of(root: Path) -> Iterator[Path]:
    """Yield the files that are code: what git tracks or would track, else all but hidden and cached ones."""
    try:
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    except ConfigurationError:
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
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, encoding="utf-8"
        )
    except FileNotFoundError:
        raise ConfigurationError("The program git is not installed.", hint="Install git.") from None
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(
            f"git {arguments[0]} failed in {root}: {error.stderr.strip() or 'no message'}.",
            hint="Candidates are git commits: is the project in a repository? (git init, git commit)",
        ) from None
    return done.stdout
