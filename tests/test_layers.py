"""The layers of the package: imports only go down, and each library is used in one place.

The rules are about folders, so they apply to a new file by its location.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import mixpanel

PACKAGE = Path(mixpanel.__file__).parent
LAYERS = [
    "_version _lazy exceptions",
    "_runtime",
    "credentials settings",
    "_records",
    "_http",
    "_delivery",
    "_page",
    "flags data",
    "bulk consumers lookup_tables signals",
    "client __init__",
    "cdp integrations _agents",
    "emulator",
    "testing cli",
]
# A provider for OpenFeature may make a client of its own.
ABOVE_THEIR_FOLDER = {"flags.openfeature": "client"}
DOORS = {
    "httpx": "_http testing",
    "httpcore": "_http.libraries",
    "trio": "_http.libraries",
    "asgiref": "_runtime integrations.django",
    "jwt": "cdp._segment",
    "sqlite3": "_delivery.spool",
    "duckdb": "data.store data.readers emulator._storage",
    "json_logic": "flags._rules",
    "tomlkit": "data.config",
    "jq": "cli",
    "typer": "cli",
    "rich": "cli",
    "starlette": "emulator integrations.fastapi",
    "uvicorn": "emulator _agents.server",
    "mcp": "_agents.server",
    "openfeature": "flags.openfeature flags._openfeature",
    "celery": "integrations.celery",
    "django": "integrations.django",
    "dramatiq": "integrations.dramatiq",
    "fastapi": "integrations.fastapi",
    "flask": "integrations.flask",
    "rq": "integrations.rq",
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in FILES}
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names.split()}


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def import_nodes(path):
    """Return the imports of a file, also within functions: reading all takes a second."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path):
    """Yield the modules that a file imports, those for type checkers too."""
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "mixpanel":
            yield from (f"mixpanel.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def level_of(name):
    part = ABOVE_THEIR_FOLDER.get(name, name.partition(".")[0])
    return LEVELS[part]


def test_every_file_has_a_layer():
    """A new folder or module at the top must be added to a layer."""
    assert not {name_of(path).partition(".")[0] for path in FILES} - set(LEVELS)


@pytest.mark.slow
def test_imports_go_down_only():
    """This includes imports for type checkers, so layers have no cycles of any kind."""
    wrong = []
    for path in FILES:
        name = name_of(path)
        for module in imports(path):
            if module.startswith("mixpanel."):
                part = module.split(".")[1]
                if part in LEVELS and LEVELS[part] > level_of(name):
                    wrong.append(f"{name} imports {module}")
    assert not wrong


@pytest.mark.slow
def test_folders_of_one_layer_do_not_import_each_other():
    """`flags` and `data` are independent of each other."""
    wrong = []
    for path in FILES:
        name = name_of(path)
        mine = name.partition(".")[0]
        for module in imports(path):
            other = module.split(".")[1] if module.startswith("mixpanel.") else mine
            both = {mine, other}
            if both == {"flags", "data"}:
                wrong.append(f"{name} imports {module}")
    assert not wrong


def imported_modules(path):
    """Yield the modules of this package that a file imports, by name below `mixpanel`."""
    for node in import_nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mixpanel."):
            for alias in node.names:
                module = node.module.removeprefix("mixpanel.")
                inner = f"{module}.{alias.name}"
                yield inner if inner in MODULES else module


@pytest.mark.slow
def test_modules_do_not_import_each_other_in_a_circle():
    """Neither directly nor through others, nor for type checkers only."""
    graph = {
        name_of(path): set(imported_modules(path)) & MODULES
        for path in FILES
        if path.name != "__init__.py"  # packages import lazily what they offer
    }

    def is_reachable(start, end):
        seen, todo = set(), [start]
        while todo:
            for each in graph.get(todo.pop(), set()) - seen:
                seen.add(each)
                todo.append(each)
        return end in seen

    circular = {name for name in graph if is_reachable(name, name)}
    assert circular == set()


@pytest.mark.slow
@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_one_door(library):
    """Replacing a library changes one folder only."""
    doors = DOORS[library].split()
    for path in FILES:
        name = name_of(path)
        if any(module.partition(".")[0] == library for module in imports(path)):
            inside = any(name == door or name.startswith(door + ".") for door in doors)
            assert inside or _only_for_types(path, library), f"{name} imports {library}"


def _only_for_types(path, library):
    for node in ast.parse(path.read_text()).body:
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for one in ast.walk(node):
            names = [alias.name for alias in one.names] if isinstance(one, ast.Import) else []
            module = one.module or "" if isinstance(one, ast.ImportFrom) else ""
            if library in {name.partition(".")[0] for name in [*names, module]} and not guarded:
                return False
    return True


def test_private_modules_stay_private():
    """Only the package and its tests import modules whose names begin with an underscore."""
    for name in mixpanel.__all__:
        value = getattr(mixpanel, name)
        assert not name.startswith("_") or name == "__version__", name
        assert value is not None


def test_the_root_holds_few_private_modules():
    """Private modules belong into folders."""
    assert len(list(PACKAGE.glob("_*.py"))) - 1 <= 3  # `__init__` aside


@pytest.mark.slow
def test_public_modules_name_what_they_offer():
    """Each public module with code has `__all__`."""
    for path in FILES:
        name = name_of(path)
        private = any(part.startswith("_") and part != "__init__" for part in name.split("."))
        if private or name.startswith(("cli", "emulator")):
            continue
        body = ast.parse(path.read_text()).body
        defines = any(isinstance(node, (ast.ClassDef, ast.FunctionDef)) for node in body)
        named = any(
            isinstance(target, ast.Name) and target.id == "__all__"
            for node in body
            if isinstance(node, (ast.Assign, ast.AnnAssign))
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        )
        assert named or not defines, name


def test_importing_starts_nothing():
    """No thread is started, no heavy module imported, and no logger changed."""
    source = """
import logging, sys, threading
before = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "root")}
import mixpanel
heavy = {"httpx", "httpcore", "duckdb", "typer", "rich", "json_logic", "starlette", "anyio",
         "pydantic", "asgiref", "asyncio", "pytest"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
assert before == {name: logging.getLogger(name).level for name in before}
assert not logging.getLogger("mixpanel").handlers
from mixpanel import AsyncMixpanel, Mixpanel
AsyncMixpanel("t"), Mixpanel("t")
assert threading.active_count() == 1
heavy = {"httpx", "duckdb", "typer", "rich", "json_logic", "trio"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", source], check=True)
