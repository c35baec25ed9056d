"""What the documents say is so: their commands are run, their code is run, their lists are complete.

A fenced block is preceded by a comment that says what is done with it:

    <!-- test -->               sh: run it; every command must succeed
    <!-- test: exit 3 -->       sh: run it; its last command ends with this status
    <!-- test: output -->       text: each line was printed by the sh block before
    <!-- test: project -->      python: the only module of a new project, which is run
    <!-- test: python -->       python: a script, run in the current folder
    <!-- test: file PATH -->    anything: written to a file of the current folder
    <!-- test: names -->        sh: not run; the make targets and files that it names must exist
    <!-- test: setup COMMAND --> no block follows; the command is run
    <!-- test: shop -->         no block follows; go to the project that init makes, after its first run

The blocks of one document share a folder, and each begins in the directory where the one before ended.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import pytest

import sidestage as face
import sidestage.checks
from sidestage.cli import main as cli
from sidestage.pipeline.projectfile import ProjectFile

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / "changelog.d").glob("*.md"),
    ]
)
COMPLETE = [path for path in DOCUMENTS if path.name == "README.md" and path.parent == REPOSITORY] + [
    path for path in DOCUMENTS if path.parent.name == "start" or path.stem == "start"
]
MARKER = re.compile(r"<!-- test(?:: (?P<what>.*?))? -->")
BLOCK = re.compile(
    r"(?:(?P<marker><!-- test[^\n]*? -->)\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$"
    r"|(?P<setup><!-- test: (?:setup [^\n]*?|shop) -->)",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!\!)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<picture>[^)\s]+)\)")
PROJECT_FILE = '[project]\nname = "example"\npipelines = ["example"]\n[run]\nworkers = 1\n'


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str
    what: str | None


def relative(path):
    return path.relative_to(REPOSITORY).as_posix()


def blocks_of(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        marker = MARKER.fullmatch(match["marker"] or match["setup"] or "")
        what = None if marker is None else marker["what"] or ""
        yield Block(line, match["language"] or "", match["text"] or "", what)


@dataclass
class Session:
    """Runs the blocks of one document."""

    folder: Path
    environment: dict[str, str]
    where: Path
    shop: Path
    printed: str = ""
    projects: int = 0

    def do(self, block: Block) -> None:
        word, _, rest = (block.what or "").partition(" ")
        match word:
            case "" | "setup" | "exit":
                text = rest if word == "setup" else block.text
                self.shell(text, int(rest) if word == "exit" else 0)
            case "output":
                missing = [
                    line
                    for line in block.text.splitlines()
                    if comparable(line) not in comparable(self.printed)
                ]
                assert missing == [], f"not printed:\n{self.printed}"
            case "file":
                target = self.where / rest
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.text, encoding="utf-8")
            case "project":
                self.project(block.text)
            case "shop":
                self.where /= "shop"
                shutil.copytree(self.shop, self.where, symlinks=True)
            case "python":
                (self.folder / "script.py").write_text(block.text, encoding="utf-8")
                self.shell(f"{shlex.quote(sys.executable)} {shlex.quote(str(self.folder / 'script.py'))}", 0)
            case "names":
                for line in block.text.splitlines():
                    names_exist(shlex.split(line, comments=True))
            case _:
                raise AssertionError(f"unknown marker {block.what!r}")

    def project(self, code: str) -> None:
        self.projects += 1
        root = self.folder / f"example{self.projects}"
        (root / "src").mkdir(parents=True)
        (root / "src" / "example.py").write_text(code, encoding="utf-8")
        (root / "sidestage.toml").write_text(PROJECT_FILE, encoding="utf-8")
        self.shell(f"sidestage run -C {shlex.quote(str(root))}", 0)
        assert " 0 failed, 0 not reached" in self.printed

    def shell(self, text: str, expect: int) -> None:
        state = self.folder / "where"
        script = f"trap 'pwd > {shlex.quote(str(state))}' EXIT\nset -euo pipefail\n{text}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.where,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        self.printed = done.stdout
        assert done.returncode == expect, f"{text}\nended with {done.returncode}:\n{done.stdout}"
        self.where = Path(state.read_text().strip())


@pytest.fixture
def session(tmp_path, sidestage, ran_shop):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("sidestage", "-m sidestage "), ("python", "")):
        command = programs / name
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
        command.chmod(0o755)
    start = tmp_path / "start"
    start.mkdir()
    environment = {
        **sidestage.environment,
        "PATH": f"{programs}:{sidestage.environment['PATH']}",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        **{
            f"GIT_{who}_{what}": "reader@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    return Session(tmp_path, environment, start, ran_shop)


def comparable(text: str) -> str:
    """Return text without what differs from run to run: times, numbers of runs and moves, spaces."""
    text = re.sub(r"\d+(\.\d+)? s\b", "N s", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "WHEN", text)
    text = re.sub(r"\b[0-9a-f]{16,}\b", "ID", text)
    text = re.sub(r"\b([Rr]un|move|comparison) \d+\b", r"\1 N", text)
    return re.sub(r"\s+", " ", text).strip()


def names_exist(words: list[str]) -> None:
    if not words:
        return
    if Path(words[0]).name in ("make", "pip") and len(words) > 1:
        known = make_targets() if words[0].endswith("make") else {"install"}
        assert words[1] in known, words
    extras = re.findall(r"\[([\w,-]+)\]", " ".join(words))
    for extra in ",".join(extras).split(","):
        assert not extra or extra in settings()["project"]["optional-dependencies"], words


def make_targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return {match[1] for match in re.finditer(r"^([a-z]+):", text, re.MULTILINE)}


def settings():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if any(block.what is not None for block in blocks_of(path))],
    ids=relative,
)
def test_what_is_shown_works(document, session):
    for block in blocks_of(document):
        if block.what is None:
            continue
        try:
            session.do(block)
        except AssertionError as error:
            raise AssertionError(f"{relative(document)}:{block.line}: {error}") from error


@pytest.mark.parametrize("document", COMPLETE, ids=relative)
def test_nothing_is_shown_that_is_not_tried(document):
    shown = [block for block in blocks_of(document) if block.language in ("sh", "python", "console", "bash")]
    assert shown
    assert [block.line for block in shown if block.what is None] == []


def test_what_is_not_run_is_only_what_cannot_be():
    allowed = {"make", "git", "cd", "python3", ".venv/bin/pip", "."}
    for document in DOCUMENTS:
        for block in blocks_of(document):
            if block.what == "names":
                first = {
                    shlex.split(line, comments=True)[0] for line in block.text.splitlines() if line.strip()
                }
                assert first <= allowed, f"{relative(document)}:{block.line}"


def test_links_lead_somewhere():
    broken = []
    for document in [*DOCUMENTS, REPOSITORY / "examples" / "flights" / "README.md"]:
        text = re.sub(
            r"```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        for match in LINK.finditer(text):
            target = match["target"] or match["picture"]
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            if not file.exists() or (anchor and anchor not in anchors_of(file)):
                broken.append(f"{relative(document)}: {target}")
            elif (match["text"] or "").startswith("`test_"):
                name = match["text"].strip("`")
                if f"def {name}(" not in file.read_text(encoding="utf-8"):
                    broken.append(f"{relative(document)}: {name} is not in {path}")
    assert broken == []


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> dict[str, click.Command]:
    context = click.Context(cli.sidestage)
    return dict(commands_of(cli.sidestage, context))


def commands_of(
    group: click.Group, context: click.Context, before: str = ""
) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield before + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, context, f"{before}{name} ")


def test_the_reference_lists_every_command_argument_and_option_and_no_other():
    text = (REPOSITORY / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `sidestage ?([^`]*)`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    documented = {
        heading: sorted(
            re.findall(r"`(--?[\w-]+)`", " ".join(re.findall(r"^\| (`-.*?) \|", body, re.MULTILINE)))
        )
        for heading, body in sections.items()
    }
    expected = {usage(name, command): options(command) for name, command in commands().items()}
    expected[""] = sorted([*options(cli.sidestage), "-h", "--help"])
    assert documented == expected


def usage(name: str, command: click.Command) -> str:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    names = [one.metavar or (one.name or "").upper() for one in arguments]
    shown = [name if one.required else f"[{name}]" for one, name in zip(arguments, names, strict=True)]
    return " ".join([name, *shown])


def options(command: click.Command) -> list[str]:
    return sorted(
        spelling for one in command.params if isinstance(one, click.Option) for spelling in one.opts
    )


def test_the_reference_lists_every_exit_status():
    text = (REPOSITORY / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    errors = importlib.import_module("sidestage.errors")
    raised = {
        one.exit_code for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")
    }
    assert listed == {0, *raised, cli.INTERRUPTED, cli.TERMINATED}


def test_the_reference_lists_every_setting():
    text = (REPOSITORY / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `((?:project|run|stage|state|pools\.NAME)\.\w+)` \|", text, re.MULTILINE))
    sections = {field.name: field.type for field in msgspec.structs.fields(ProjectFile)}
    _, sections["pools.NAME"] = typing.get_args(sections.pop("pools"))
    assert listed == {
        f"{section}.{field.name}"
        for section, kind in sections.items()
        for field in msgspec.structs.fields(kind)
    }


def test_every_public_name_is_explained():
    text = (REPOSITORY / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)[`(]", text, re.MULTILINE))
    assert listed == {*face.__all__, *sidestage.checks.__all__}


def test_the_picture_of_the_house_is_the_house():
    spec = importlib.util.spec_from_file_location("house", REPOSITORY / "tools" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    drawn = house.draw(REPOSITORY)
    assert house.PICTURE.read_text(encoding="utf-8") == drawn, "draw it again: python tools/house.py"


def test_every_decision_is_listed():
    folder = REPOSITORY / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_nothing_names_this_machine_or_a_registry():
    # In pieces, so that this file does not find itself.
    unwanted = ["/wo" + "rk/", "/tmp/" + "probe", "py" + "pi.org", "files.python" + "hosted"]
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [REPOSITORY / name for name in listed.stdout.decode().split("\0") if name]
    texts = {path: path.read_bytes().decode("utf-8", "replace") for path in files if path.is_file()}
    assert REPOSITORY / "pyproject.toml" in texts
    assert [
        f"{relative(path)}: {word}" for path, text in texts.items() for word in unwanted if word in text
    ] == []
