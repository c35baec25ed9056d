"""``sidestage init``: a new project that runs at once."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from sidestage.cli.options import json_option, print_json
from sidestage.errors import ConfigurationError

_PLACEHOLDER = "__project__"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")


@click.command("init")
@click.argument("name")
@click.option("--into", metavar="FOLDER", help="The folder to make (default: NAME).")
@json_option
def command(name: str, into: str | None, *, as_json: bool) -> int:
    """Make a new project: a pipeline with checks, a playbook, a unit test and the configuration."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name[:60]!r} cannot be the name of a project, because it is also that of a Python package.",
            hint="Use lower-case letters, digits and _, beginning with a letter.",
        )
    target = Path(into or name)
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError(f"The folder {target} is not empty.", hint="Choose another with --into.")
    _copy(files("sidestage.cli") / "scaffold", target, name)
    if as_json:
        print_json({"name": name, "folder": str(target)})
        return 0
    click.echo(f"Made {target}/. Next:\n  cd {target}\n  sidestage run")
    return 0


def _copy(source: Traversable, target: Path, name: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name == "__pycache__":
            continue
        # Packagers drop files whose names begin with a dot, so this one travels without it.
        own = ".gitignore" if entry.name == "gitignore" else entry.name.replace(_PLACEHOLDER, name)
        if entry.is_dir():
            _copy(entry, target / own, name)
        else:
            text = entry.read_text(encoding="utf-8").replace(_PLACEHOLDER, name)
            (target / own).write_text(text, encoding="utf-8")
