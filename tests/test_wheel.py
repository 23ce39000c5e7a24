"""The wheel: built twice alike, with a bill of materials of what it requires."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytest.importorskip("hatchling", reason="needs hatchling, from the dependency group `tests`")
from hatch_build import bill_of_materials

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def built(tree, folder, *, hash_seed):
    """Build a wheel of `tree` without a network and return its path."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=tree,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy what a wheel is built of, so that a build leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("tree") / "project"
    folder.mkdir()
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("mixpanel", "examples/data", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return built(tree, tmp_path_factory.mktemp("wheel"), hash_seed="1")


def test_the_wheel_holds_the_pages_of_the_documentation(wheel):
    """`mp docs` prints them without a checkout and without a network."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("mixpanel/_docs/")}
        readme = archive.read("mixpanel/_docs/readme.md").decode()
    pages = {f"mixpanel/_docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"mixpanel/_docs/readme.md"} == {name for name in names if name.endswith(".md")}
    assert readme == (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def bill(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
        assert name.split("/")[0] == "-".join(wheel.name.split("-")[:2]) + ".dist-info"
        return json.loads(archive.read(name))


def test_the_same_tree_builds_the_same_wheel(tree, wheel, tmp_path):
    """Neither times of files nor their permissions, nor the order of sets, change a byte."""
    other = tmp_path / "elsewhere"
    shutil.copytree(tree, other)
    for path in other.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    again = built(other, tmp_path / "out", hash_seed="2")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


def wanted():
    """Return what pyproject.toml requires as {name: (requirement, extras that bring it in)}."""
    optional = PROJECT["optional-dependencies"]
    found = {}

    def add(lines, extra):
        for line in lines:
            requirement = Requirement(line)
            if requirement.name == PROJECT["name"]:
                for other in requirement.extras:
                    add(optional[other], extra)
            else:
                found.setdefault(requirement.name, (requirement, set()))[1].update(extra)

    add(PROJECT["dependencies"], [])
    for name, lines in optional.items():
        add(lines, [name])
    return found


def test_the_wheel_holds_a_bill_of_materials_of_what_it_requires(bill):
    """Each runtime dependency is there with its bounds, purl and extras, and no other is."""
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.7")
    root = bill["metadata"]["component"]
    assert root["name"] == PROJECT["name"]
    assert root["licenses"] == [{"expression": PROJECT["license"]}]
    assert root["purl"] == f"pkg:pypi/{root['name']}@{root['version']}" == root["bom-ref"]

    shown = {component["name"]: component for component in bill["components"]}
    assert len(shown) == len(bill["components"])
    assert shown.keys() == wanted().keys()
    for name, (requirement, extras) in wanted().items():
        component = shown[name]
        bounds = str(requirement.specifier)
        if bounds.startswith("=="):
            assert component["version"] == bounds[2:]
            assert component["purl"] == f"pkg:pypi/{name}@{bounds[2:]}"
        else:
            found = component["versionRange"].removeprefix("vers:pypi/").split("|")
            assert set(found) == set(bounds.split(","))
            assert component["purl"] == f"pkg:pypi/{name}"
        properties = [(each["name"], each["value"]) for each in component.get("properties", [])]
        assert {v for k, v in properties if k == "mixpanel-async:extra"} == extras
        assert {
            v for k, v in properties if k == "cdx:python:package:required-extra"
        } == requirement.extras
        base = any(Requirement(line).name == name for line in PROJECT["dependencies"])
        assert component["scope"] == ("required" if base else "optional")


def test_each_component_of_the_bill_hangs_from_the_package(bill):
    """The graph names each component once, and no other."""
    root, *others = bill["dependencies"]
    refs = [component["bom-ref"] for component in bill["components"]]
    assert root == {"ref": bill["metadata"]["component"]["bom-ref"], "dependsOn": refs}
    assert others == [{"ref": ref} for ref in refs]


def test_bounds_extras_and_markers_of_a_requirement_are_in_the_bill():
    """Several bounds are ordered by version, and a marker is kept with them."""
    bill = bill_of_materials(
        "Some_Package",
        "1.0",
        "MIT",
        ["a!=2.1,<10,>=2"],
        {
            "x": ["B.b[s,r]==1.0; python_version < '3.12'"],
            "y": ["some-package[x]", "a!=2.1,<10,>=2"],
        },
    )
    first, second = bill["components"]
    assert first["versionRange"] == "vers:pypi/>=2|!=2.1|<10"
    assert first["scope"] == "required"
    assert first["properties"] == [{"name": "mixpanel-async:extra", "value": "y"}]
    assert (second["name"], second["version"]) == ("b-b", "1.0")
    assert second["purl"] == "pkg:pypi/b-b@1.0"
    assert second["properties"] == [
        {"name": "cdx:python:package:required-extra", "value": "r"},
        {"name": "cdx:python:package:required-extra", "value": "s"},
        {"name": "mixpanel-async:extra", "value": "x"},
        {"name": "mixpanel-async:extra", "value": "y"},
        {"name": "mixpanel-async:marker", "value": 'python_version < "3.12"'},
    ]


@pytest.mark.parametrize("line", ["a~=1.4", "a==1.*", "a===1.0"])
def test_bounds_that_the_bill_cannot_express_stop_the_build(line):
    """A wrong range would be worse than none."""
    with pytest.raises(ValueError, match="cannot be expressed in the bill of materials"):
        bill_of_materials("p", "1", "MIT", [line], {})
