"""Known failures of a pipeline, and what a person does about them."""

import inspect
import re
from pathlib import Path

import msgspec

from sidestage.errors import DefinitionError

_HEADING = re.compile(r"^##[ \t]+(?P<title>\S.*?)[ \t\r]*$", re.MULTILINE)
_FIELD = re.compile(r"^(?P<name>Symptom|Look|Do):(?P<text>.*(?:\n(?!Symptom:|Look:|Do:).*)*)", re.MULTILINE)


class KnownFailure(msgspec.Struct, frozen=True):
    """One entry: what one sees, where to look, what to do."""

    title: str
    symptom: str
    look: str
    do: str


class Playbook(msgspec.Struct, frozen=True):
    """The known failures of a pipeline, from a Markdown file.

    Each second-level heading is a failure; below it stand lines that begin with ``Symptom:``, ``Look:``
    and ``Do:``.
    """

    path: str
    failures: tuple[KnownFailure, ...]

    @classmethod
    def load(cls, path: str) -> "Playbook":
        """Read a playbook; a relative path starts at the project's root, or at any folder above the caller.

        Raises DefinitionError if there is no such file, or an entry lacks one of its three parts.
        """
        caller = Path(inspect.stack()[1].filename).resolve()
        found = next((folder / path for folder in caller.parents if (folder / path).is_file()), None)
        if found is None:
            raise DefinitionError(
                f"There is no playbook {path!r} in any folder above {caller}.",
                hint="Create it, or correct the path in Playbook.load().",
            )
        return cls(path=path, failures=parse(found.read_text(encoding="utf-8"), path))


def parse(text: str, path: str) -> tuple[KnownFailure, ...]:
    """Return the failures that a playbook's Markdown describes. Raises DefinitionError."""
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)][1:]
    return tuple(
        _entry(heading["title"], text[heading.end() : end], path)
        for heading, end in zip(headings, ends, strict=True)
    )


def _entry(title: str, body: str, path: str) -> KnownFailure:
    fields = {match["name"]: match["text"].strip() for match in _FIELD.finditer(body)}
    missing = [name for name in ("Symptom", "Look", "Do") if not fields.get(name)]
    if missing:
        raise DefinitionError(
            f"Playbook {path}: the failure {title!r} lacks {', '.join(missing)}.",
            hint="Each failure needs the lines Symptom:, Look: and Do:.",
        )
    return KnownFailure(title=title, symptom=fields["Symptom"], look=fields["Look"], do=fields["Do"])
