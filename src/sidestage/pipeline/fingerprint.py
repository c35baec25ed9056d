"""Fingerprints: which code a task runs, so that unchanged steps can be reused.

A fingerprint covers the task's own function, every name of its module that the function uses (followed
transitively through functions, classes and constants, and through what statements of the module do to them),
the modules *of the project* that those import, the values that a function made by another function was
given, the text of its query, and the lock file of the project. Comments, formatting and docstrings do not
count, nor do definitions that the task does not use. What it cannot see: code reached through strings
(``getattr``, ``importlib``), modules imported only for what importing them does, and files that a function
reads while it runs.

The method is reachability over the syntax tree; where a name cannot be followed the whole module counts, so
errors fall on the side of running too much.
"""

import ast
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from sidestage.data.dataset import Dataset

LOCK_FILES = ("uv.lock", "pylock.toml", "requirements.lock", "poetry.lock", "requirements.txt")

_WHOLE = "*"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Import = ast.Import | ast.ImportFrom


def lock_digest(root: Path) -> str:
    """Return the interpreter's version and, if the project has a lock file, a digest of it."""
    version = f"python-{sys.version_info.major}.{sys.version_info.minor}"
    for name in LOCK_FILES:
        path = root / name
        if path.is_file():
            return f"{version}:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return version


class CodeIndex:
    """Source of one project, parsed once, from which fingerprints are made."""

    def __init__(self, source: Path, lock: str) -> None:
        self.source = source.resolve()
        self._lock = lock
        self._modules: dict[Path, _Module] = {}

    def of_function(self, function: Callable[..., Any], declared: str) -> str:
        """Return the fingerprint of a task that runs ``function``.

        ``declared`` is what else decides its output: names of inputs, mappings, checks.
        """
        walk = _Walk(self)
        walk.function(function)
        return _digest({f"declared:{declared}", f"lock:{self._lock}", *walk.finish()})

    def of_query(self, query: str, declared: str) -> str:
        """Return the fingerprint of a SQL task."""
        lines = "\n".join(line.rstrip() for line in query.strip().splitlines())
        return _digest({f"query:{lines}", f"declared:{declared}", f"lock:{self._lock}"})

    def module(self, path: Path) -> "_Module | None":
        """Return a module of the project, None for a file that is not one."""
        if not path.is_relative_to(self.source) or path.suffix != ".py":
            return None
        if path not in self._modules:
            self._modules[path] = _Module(path, path.relative_to(self.source).as_posix())
        return self._modules[path]

    def files(self, dotted: str, importer: Path, level: int) -> list[Path]:
        """Return the project's files that importing ``dotted`` runs, packages first; none if not ours."""
        folder = self.source if level == 0 else importer.parents[level - 1]
        found: list[Path] = []
        parts = [part for part in dotted.split(".") if part]
        if level and not parts and (folder / "__init__.py").is_file():
            return [folder / "__init__.py"]
        for part in parts:
            folder = folder / part
            if (folder / "__init__.py").is_file():
                found.append(folder / "__init__.py")
            elif folder.with_suffix(".py").is_file():
                return [*found, folder.with_suffix(".py")]
            elif not folder.is_dir():
                return []
        return found


class _Walk:
    """One walk from a function to all that it reaches; ``pieces`` is what was found."""

    def __init__(self, index: CodeIndex) -> None:
        self._index = index
        self._pieces: set[str] = set()
        self._seen: set[tuple[Path, str]] = set()
        self._waiting: list[tuple[Path, str]] = []
        self._open: set[int] = set()

    def finish(self) -> set[str]:
        """Follow everything that is still waiting; return the pieces of code that were reached."""
        while self._waiting:
            place = self._waiting.pop()
            if place in self._seen:
                continue
            self._seen.add(place)
            path, name = place
            module = self._index.module(path)
            if module is None:
                continue
            if name == _WHOLE:
                self._pieces.add(f"{module.label}:{_dump(module.tree)}")
                self._imports_in(path, module.tree)
            else:
                self._name(path, module, name)
        return self._pieces

    def function(self, function: Any) -> None:
        """Follow a function, what it was given when it was made, and the one that it wraps."""
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.function(wrapped)
        code = getattr(function, "__code__", None)
        if code is None:
            return
        path = Path(code.co_filename).resolve()
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._pieces.add(f"closure:{code.co_name}:{name}:{self._cell(cell)}")
        given = (function.__defaults__, function.__kwdefaults__)
        self._pieces.add(f"defaults:{code.co_name}:{self._value(given)}")
        module = self._index.module(path)
        if module is None:
            return
        node = module.function_at(code.co_firstlineno, code.co_name)
        if node is None:
            self._waiting.append((path, _WHOLE))
            return
        self._piece(path, module, code.co_name, _without_declaration(node))

    def _piece(self, path: Path, module: "_Module", name: str, node: ast.AST) -> None:
        self._pieces.add(f"{module.label}:{name}:{_dump(node)}")
        self._waiting.extend((path, used.id) for used in ast.walk(node) if isinstance(used, ast.Name))
        self._imports_in(path, node)

    def _name(self, path: Path, module: "_Module", name: str) -> None:
        for position, statement in enumerate(module.bindings.get(name, ())):
            if isinstance(statement, _Import):
                self._import(path, statement, name)
            else:
                bare = _without_declaration(statement) if isinstance(statement, _Function) else statement
                self._piece(path, module, f"{name}:{position}", bare)
        for star in module.stars:
            targets = self._index.files(star.module or "", path, star.level)
            self._waiting.extend((target, name) for target in targets[-1:])

    def _imports_in(self, path: Path, node: ast.AST) -> None:
        for statement in ast.walk(node):
            if isinstance(statement, _Import):
                self._import(path, statement, None)

    def _import(self, path: Path, statement: _Import, name: str | None) -> None:
        """Follow what an import statement binds to a name, or to any name."""
        for alias in statement.names:
            bound = alias.asname or (
                alias.name.partition(".")[0] if isinstance(statement, ast.Import) else alias.name
            )
            if name is not None and bound != name:
                continue
            if isinstance(statement, ast.Import):
                files = self._index.files(alias.name, path, 0)
                self._waiting.extend((target, _WHOLE) for target in files)
            else:
                self._import_from(path, statement, alias.name)

    def _import_from(self, path: Path, statement: ast.ImportFrom, name: str) -> None:
        base = statement.module or ""
        package = self._index.files(base, path, statement.level)[-1:]
        inner = self._index.files(f"{base}.{name}", path, statement.level)[-1:]
        if inner != package:
            self._waiting.extend((target, _WHOLE) for target in inner)
        for target in package:
            module = self._index.module(target)
            known = module is not None and (name in module.bindings or module.stars)
            if known or inner == package or not inner:
                self._waiting.append((target, name if known else _WHOLE))

    def _cell(self, cell: Any) -> str:
        try:
            return self._value(cell.cell_contents)
        except ValueError:  # nothing was put into it yet
            return "empty"

    def _value(self, value: Any) -> str:
        """Return a value as text that is the same in every process, following code that it holds."""
        if id(value) in self._open:
            return "..."
        self._open.add(id(value))
        try:
            return f"{type(value).__qualname__}:{self._content(value)}"
        finally:
            self._open.discard(id(value))

    def _content(self, value: Any) -> str:
        match value:
            case list() | tuple():
                return f"[{', '.join(map(self._value, value))}]"
            case set() | frozenset():
                return f"[{', '.join(sorted(map(self._value, value)))}]"
            case Mapping():
                items = (f"{self._value(key)}={self._value(item)}" for key, item in value.items())
                return f"{{{', '.join(items)}}}"
            case Dataset():  # more partitions do not change the old ones
                return value.name
            case FunctionType() | MethodType() | functools.partial() | type() | ModuleType():
                return self._code(value)
            case _:
                return self._state(value)

    def _state(self, value: Any) -> str:
        if hasattr(value, "__wrapped__"):
            self.function(value)
            return ""
        self._code(type(value))
        fields = [*getattr(value, "__struct_fields__", ()), *getattr(value, "__dict__", ())]
        if fields:
            return self._content({field: getattr(value, field, None) for field in fields})
        return _ADDRESS.sub("", repr(value))

    def _code(self, value: Any) -> str:
        """Follow a function, class or module that a value is; return its name."""
        match value:
            case FunctionType():
                self.function(value)
            case MethodType():
                self.function(value.__func__)
                return f"{value.__qualname__} of {self._value(value.__self__)}"
            case functools.partial():
                return self._value([value.func, value.args, value.keywords])
            case ModuleType():
                self._waiting.append((Path(value.__file__ or "").resolve(), _WHOLE))
                return value.__name__
            case type():
                home = getattr(sys.modules.get(value.__module__), "__file__", None) or ""
                self._waiting.append((Path(home).resolve(), value.__qualname__.partition(".")[0]))
        return str(value.__qualname__)


class _Module:
    """One parsed file, and which statements decide about which of its names."""

    def __init__(self, path: Path, label: str) -> None:
        self.label = label
        self.tree = _without_docstrings(ast.parse(path.read_bytes(), filename=str(path)))

    @cached_property
    def bindings(self) -> dict[str, list[ast.stmt]]:
        """The statements that bind or change a name, in their order."""
        bindings: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            for name in dict.fromkeys(_decided_names(statement)):
                bindings.setdefault(name, []).append(statement)
        return bindings

    @cached_property
    def stars(self) -> list[ast.ImportFrom]:
        """The imports of all names of another module."""
        return [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
        ]

    def function_at(self, line: int, name: str) -> _Function | None:
        """Return the function of this name that begins at a line, decorators included."""
        for node in ast.walk(self.tree):
            if isinstance(node, _Function) and node.name == name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if first == line:
                    return node
        return None


def _decided_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the module-level names that a statement binds or may change, also inside ``if`` and ``try``."""
    if isinstance(statement, _Function | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        match node:
            case ast.Import(names=names):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                yield from _holder(node)
            case ast.Expr(value=ast.Call() as call) if not _declares_task(call):
                yield from _changed_by(call)


def _changed_by(call: ast.Call) -> Iterator[str]:
    """Yield the names whose values a call may change: that of its method's object, and its arguments."""
    if isinstance(call.func, ast.Attribute):
        yield from _holder(call.func)
    for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
        yield from _holder(argument)


def _holder(node: ast.expr) -> Iterator[str]:
    """Yield the name in front of attributes and subscripts."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _without_declaration(node: _Function) -> ast.AST:
    """Return the function without ``@pipeline.task(...)``: what that says is part of ``declared``."""
    kept = [decorator for decorator in node.decorator_list if not _declares_task(decorator)]
    copy = type(node)(**{**dict(ast.iter_fields(node)), "decorator_list": kept})
    return ast.copy_location(copy, node)


def _declares_task(node: ast.expr) -> bool:
    """Whether an expression is ``pipeline.task(...)``, or that called, or ``pipeline.sql(...)``."""
    while isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in ("task", "sql"):
            return any(keyword.arg in ("writes", None) for keyword in node.keywords)
        node = called
    return False


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | _Function) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _dump(node: ast.AST) -> str:
    return ast.dump(node, annotate_fields=False)


def _digest(pieces: set[str]) -> str:
    return hashlib.sha256("\0".join(sorted(pieces)).encode("utf-8", "surrogatepass")).hexdigest()[:32]
