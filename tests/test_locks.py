"""The locked versions: all that tox and CI install, with hashes, within the project's bounds."""

import ast
import configparser
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
LOCKS = sorted(FOLDER.rglob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINE = re.compile(r"(?P<pin>\S+==\S+(?: ; [^\\]+)?) \\")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}( \\)?")

each_lock = pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)


def locked(name):
    """Return what a file locks, as {name: [versions, one for each range of Pythons]}."""
    found = {}
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if match := LINE.fullmatch(line):
            requirement = Requirement(match["pin"])
            (version,) = requirement.specifier
            found.setdefault(canonicalize_name(requirement.name), []).append(version.version)
    return found


def bounds_of(*lines):
    """Return requirements without those for this project's own extras."""
    found = [Requirement(line) for line in lines]
    return [each for each in found if each.name != PROJECT["project"]["name"]]


def group(name):
    """Return the lines of a dependency group, with those of the groups that it includes."""
    for line in PROJECT["dependency-groups"][name]:
        yield from [line] if isinstance(line, str) else group(line["include-group"])


def of_the_package(*, without=()):
    extras = [
        lines
        for name, lines in PROJECT["project"]["optional-dependencies"].items()
        if name not in without
    ]
    return [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]


WANTED = {
    "tests": [*of_the_package(), *group("tests")],
    "lowest": [*of_the_package(without=["mcp"]), *group("tests")],
    "types": [*of_the_package(), *group("types")],
    "lint": [*group("lint")],
    "audit": [*group("audit")],
    "docs": [*of_the_package(), *group("docs")],
    "release": [*group("release")],
    "build": [*group("build"), *PROJECT["build-system"]["requires"]],
    "tox": [*group("tox")],
    "lock": [*group("lock")],
    **{
        f"peers/{name.removeprefix('peer-')}": [*group(name)]
        for name in PROJECT["dependency-groups"]
        if name.startswith("peer-")
    },
}


@pytest.mark.slow
@each_lock
def test_each_locked_version_has_hashes_and_no_address(path):
    """A different file of the same version is rejected, whichever index serves it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [line.strip() for line in lines if not line.strip().startswith("#")]
    unknown = [line for line in lines if not LINE.fullmatch(line) and not HASH.fullmatch(line)]
    assert unknown == []
    assert "://" not in path.read_text(encoding="utf-8")
    starts = [n for n, line in enumerate(lines) if LINE.fullmatch(line)]
    assert starts
    assert [lines[n] for n in starts if not HASH.fullmatch(lines[n + 1])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", WANTED)
def test_locked_versions_meet_the_bounds_of_the_project(name):
    """A bound that was raised without renewing the locks fails."""
    versions = locked(name)
    for requirement in bounds_of(*WANTED[name]):
        found = versions[canonicalize_name(requirement.name)]
        assert [v for v in found if not requirement.specifier.contains(v, prereleases=True)] == []


def test_the_lowest_versions_are_those_of_the_bounds():
    """What `tox -e lowest` tests is what pyproject.toml promises.

    The extra mcp is left out: its SDK needs newer versions of what the package needs itself.
    """
    lowest = locked("lowest")
    for requirement in bounds_of(*of_the_package(without=["mcp"])):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        (version,) = lowest[canonicalize_name(requirement.name)]
        assert Version(version) == Version(bound.version)


def test_each_environment_of_tox_installs_from_a_lock():
    """No environment names a version or a group of its own, and no lock is left over."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string((ROOT / "tox.ini").read_text(encoding="utf-8"))
    used = {"build", "tox"}
    for section in config.sections():
        assert "dependency_groups" not in config[section]
        if "deps" in config[section]:
            used.add(re.fullmatch(r"-r requirements/(\w+)\.txt", config[section]["deps"])[1])
    assert "requirements/build.txt" in config["testenv:.pkg"]["install_command"]
    assert {path.stem for path in LOCKS if path.parent == FOLDER} == used


@pytest.mark.parametrize(
    "path",
    [".ci/run", *(f".github/workflows/{name}.yml" for name in ("ci", "audit", "release"))],
)
def test_ci_installs_with_hashes_only(path):
    """A new release of tox changes nothing until the locks are renewed."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert [
        line for line in installs if "--require-hashes --requirement requirements/" not in line
    ] == []


def test_the_hooks_of_pre_commit_have_the_locked_versions():
    """A commit that passes the hooks also passes CI."""
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = [Requirement(each) for each in re.findall(r'"([\w\[\]-]+==[^"]+)"', text)]
    assert {"ruff", "mypy"} <= {pin.name for pin in pins}
    versions = locked("types") | locked("lint")
    assert [pin for pin in pins if versions[pin.name] != [str(pin.specifier)[2:]]] == []


@pytest.mark.slow
def test_the_hook_of_mypy_has_what_the_package_imports():
    """All that `ignore_missing_imports` does not name, or mypy fails in the hook alone."""
    imported = set()
    for path in (ROOT / "mixpanel").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module)
    ignored = {
        module
        for override in PROJECT["tool"]["mypy"]["overrides"]
        if override.get("ignore_missing_imports")
        for module in override["module"]
    }
    known = {each.partition(".")[0] for each in ignored} | {"mixpanel", *sys.stdlib_module_names}
    known |= {"cryptography", "httpcore", "pydantic_core"}  # of pyjwt[crypto], httpx and pydantic
    names = {"jwt": "pyjwt", "openfeature": "openfeature-sdk"}
    packages = {each.partition(".")[0] for each in imported} - known
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = {Requirement(each).name for each in re.findall(r'"([\w\[\]-]+==[^"]+)"', text)}
    assert {names.get(each, each) for each in packages} - pins == set()


@pytest.mark.parametrize("python", ["3.11.7", "3.12.1", "3.13.0", "3.14.0"])
@pytest.mark.parametrize("name", ["tests", "types", "tox"])
def test_each_supported_python_has_one_version_of_each_package(name, python):
    """Markers split the versions by Python, without a gap and without an overlap."""
    environment = {"python_full_version": python, "python_version": python[:4]}
    environment |= {"sys_platform": "linux", "os_name": "posix"}
    pins = [
        Requirement(match["pin"])
        for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        if (match := LINE.fullmatch(line))
    ]
    names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    assert len(names) == len(set(names))
    assert {canonicalize_name(each.name) for each in bounds_of(*WANTED[name])} <= set(names)
