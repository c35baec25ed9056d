"""Draw docs/house.svg: the floors of the import contract in pyproject.toml, each room with its own words.

What is written in a room is the first sentence of its docstring, so that the picture cannot say anything else
than the code does. A test draws it again and compares.
"""

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PICTURE = REPOSITORY / "docs" / "house.svg"

WIDTH, MARGIN, GAP, ROOF = 980, 24, 8, 84
PADDING, TITLE, LINE = 12, 20, 15
CHARACTER = 6.1
WALL, ROOM, INK, FAINT = "#6b4f3a", "#fffdf8", "#2a2320", "#6d625b"


def floors(repository: Path) -> list[list[str]]:
    """Return the rooms of each floor, highest first, as the import contract lists them."""
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def words_of(repository: Path, room: str) -> str:
    """Return the first sentence of a room's docstring."""
    place = repository / "src" / "sidestage" / room
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("``", "").rstrip(".")


def draw(repository: Path) -> str:
    """Return the picture as SVG."""
    parts: list[str] = []
    top = ROOF + MARGIN
    for rooms in floors(repository):
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        texts = [_wrapped(words_of(repository, room), width) for room in rooms]
        height = 2 * PADDING + TITLE + LINE * max(map(len, texts)) - 4
        for place, (room, lines) in enumerate(zip(rooms, texts, strict=True)):
            parts += _room(room, lines, MARGIN + place * (width + GAP), top, width, height)
        top += height + GAP
    return "\n".join([*_frame(top + MARGIN - GAP), *parts, "</svg>"]) + "\n"


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, int((width - 2 * PADDING) / CHARACTER))


def _room(name: str, lines: list[str], left: float, top: float, width: float, height: float) -> list[str]:
    text, first = left + PADDING, top + PADDING + 13
    return [
        _box(left, top, width, height, ROOM),
        _text(text, first, 15, INK, name, ' font-weight="bold"'),
        *(
            _text(text, first + TITLE + LINE * number - 2, 12, FAINT, line)
            for number, line in enumerate(lines)
        ),
    ]


def _frame(bottom: float) -> list[str]:
    middle = WIDTH / 2
    view = f'viewBox="0 0 {WIDTH} {bottom:g}" role="img" font-family="system-ui, sans-serif"'
    rule = "imports only fall; rooms on one floor do not know each other"
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {view}>',
        "<title>The house: rooms of Sidestage by floor; imports only fall</title>",
        f'<polygon points="{middle:g},4 {WIDTH},{ROOF} 0,{ROOF}" fill="{WALL}"/>',
        _text(middle, 52, 18, ROOM, "sidestage", ' font-weight="bold" text-anchor="middle"'),
        _text(middle, 72, 12, ROOM, rule, ' text-anchor="middle"'),
        _box(8, ROOF, WIDTH - 16, bottom - ROOF - 8, "#efe4d6"),
    ]


def _box(left: float, top: float, width: float, height: float, fill: str) -> str:
    place = f'x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="4" fill="{fill}" stroke="{WALL}"/>'


def _text(left: float, base: float, size: int, fill: str, words: str, more: str = "") -> str:
    return f'<text x="{left:g}" y="{base:g}" font-size="{size}" fill="{fill}"{more}>{escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(REPOSITORY), encoding="utf-8")
    print(f"Drew {PICTURE.relative_to(REPOSITORY)}")
