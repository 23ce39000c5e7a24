"""The house: imports only go down, and each third-party library has its room."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mixpanel

HOUSE = Path(mixpanel.__file__).parent
FLOORS = {
    -1: "_runtime",
    0: "cdp.__init__ cdp.semantic cdp.webhooks cdp._values cdp._dialect cdp._customerio "
    "cdp._hightouch cdp._packing cdp._messages cdp._semantic cdp._advice cdp._people cdp._route "
    "cdp._gate cdp._rows cdp._routing cdp._translation cdp._accounts cdp._fanout_verbs "
    "cdp._segment_options cdp._segment_verbs "
    "flags.__init__ data.__init__ data.exceptions data._answers data._result data.results "
    "data.plan data.asked exceptions credentials settings messages _verbs _json _exchange "
    "_buffer _ledger _redaction _context _profiles _validation _version _route _ids _spreadsheets "
    "flags.types flags.rules flags.evaluate flags.exposure "
    "flags.compiled flags.definitions flags.diagnostics flags.explain flags.lint flags.declare "
    "flags.overrides flags.wire flags._hashing flags._values flags._operators "
    "flags._comparisons flags._compiler flags._decision flags._limits flags._budget",
    1: "_wire cdp._auth data._budget _loop _exit _bridge data.credentials data.config "
    "data._paths data.store flags.snapshot",
    2: "_wires _courier _sender _accepting _custom consumers bulk lookup cdp._backfill "
    "data.api data._receive data._work data.fetch data.profiles data.stream "
    "data._local data._verbs "
    "flags.poller flags.reporting "
    "flags.local_feature_flags flags.remote_feature_flags flags.hybrid flags.fixed",
    3: "__init__ client cdp._segment cdp.customerio cdp.hightouch cdp.htevents "
    "cdp._fanout cdp.fanout "
    "data.workspace testing _diverted cli emulator flags.resolution flags.openfeature",
}
OWNERS = {
    "httpx": {"_wire", "testing"},
    "httpcore": {"_wire"},
    "asgiref": {"_bridge"},
    "jwt": {"cdp._auth"},
    "duckdb": {"data.store", "emulator.database", "emulator.warehouse"},
    "sqlite3": {"spool"},
    "json_logic": {"flags.rules"},
    "tomlkit": {"data.config"},
    "jq": {"cli"},
    "typer": {"cli"},
    "rich": {"cli"},
    "starlette": {"emulator"},
    "uvicorn": {"emulator"},
    "openfeature": {"flags.openfeature", "flags.resolution"},
}


def room_of(path):
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts)


each_file = pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=room_of)


def imported(path):
    """Yield what a file imports when it runs; what only type checkers see does not count."""
    tree = ast.parse(path.read_text())
    checked_only = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            checked_only.update(id(inner) for child in node.body for inner in ast.walk(child))
    for node in ast.walk(tree):
        if id(node) in checked_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("mixpanel"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(room):
    for floor, names in FLOORS.items():
        if any(room == name or room.startswith(name + ".") for name in names.split()):
            return floor
    return None


@each_file
def test_imports_only_go_down(path):
    """A pure room knows no gate, a gate no actor, an actor no face."""
    room = room_of(path)
    mine = floor_of(room)
    assert mine is not None, f"{room} is on no floor"
    for name in imported(path):
        other = floor_of(name.removeprefix("mixpanel.")) if name.startswith("mixpanel.") else None
        assert other is None or other <= mine, f"{room} (floor {mine}) imports {name} ({other})"


@each_file
def test_each_library_has_its_room(path):
    """Swapping one touches one place."""
    room = room_of(path)
    for name in imported(path):
        owners = OWNERS.get(name.partition(".")[0])
        if owners is not None:
            assert any(room == owner or room.startswith(owner + ".") for owner in owners), name


def test_every_public_name_exists_once():
    """`__all__`, the lazy table and the type checkers' imports agree."""
    assert sorted(mixpanel.__all__) == mixpanel.__all__
    for name in mixpanel.__all__:
        assert getattr(mixpanel, name) is not None
    assert set(mixpanel.__all__) - {"__version__"} == set(mixpanel._HOME)
    with pytest.raises(AttributeError):
        mixpanel.nonsense  # noqa: B018


def test_importing_starts_nothing():
    """No thread, no heavy module, no logger touched."""
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
