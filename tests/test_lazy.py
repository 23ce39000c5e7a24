"""Public names are loaded when they are first used."""

import compileall
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mixpanel
from mixpanel import _lazy

pytestmark = pytest.mark.slow

LAZY = ["mixpanel", "mixpanel.cdp", "mixpanel.data", "mixpanel.testing"]


@pytest.mark.parametrize("name", LAZY)
def test_every_public_name_can_be_loaded(name):
    """Every name in `__all__` exists, and `dir()` lists it."""
    module = importlib.import_module(name)
    assert set(module.__all__) <= set(dir(module))
    for public in module.__all__:
        assert getattr(module, public) is not None


@pytest.mark.parametrize("name", ["mixpanel", "mixpanel.cdp", "mixpanel.data"])
def test_type_checkers_see_the_names_that_all_lists(name):
    """The imports for type checkers and `__all__` have the same names."""
    module = importlib.import_module(name)
    imported = _lazy._imported_names(Path(module.__file__).read_bytes())
    assert set(imported) == set(module.__all__) - {"__version__"}
    assert len(module.__all__) == len(set(module.__all__))


@pytest.mark.parametrize("name", LAZY)
def test_an_unknown_name_is_an_attribute_error(name):
    """The message is the same as Python's."""
    module = importlib.import_module(name)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018
    assert not hasattr(module, "__wrapped__")


def test_a_loaded_name_is_kept():
    """The second use is a plain attribute access."""
    loaded = mixpanel.Mixpanel
    assert vars(mixpanel)["Mixpanel"] is loaded
    assert inspect.isclass(loaded)


def test_the_package_works_without_its_source(tmp_path):
    """As in a frozen program: compiled files alone, whose imports then run as usual."""
    package = Path(mixpanel.__file__).parent
    shutil.copytree(package, tmp_path / "mixpanel", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(tmp_path / "mixpanel", legacy=True, quiet=2)
    for source in (tmp_path / "mixpanel").rglob("*.py"):
        source.unlink()
    script = (
        "import mixpanel, mixpanel.cdp, mixpanel.data, mixpanel.testing\n"
        "assert mixpanel.__file__.endswith('.pyc'), mixpanel.__file__\n"
        "for module in mixpanel, mixpanel.cdp, mixpanel.data, mixpanel.testing:\n"
        "    assert all(getattr(module, name) for name in module.__all__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=tmp_path)
