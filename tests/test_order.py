"""Which files are read, and the order: each test once, and each worker begins with long ones."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import order

ROOT = Path(__file__).parents[1]


def test_the_long_tests_exist():
    """A test that was renamed would lose its place."""
    for name in order.LONG:
        path, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / path).read_text()
        assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("text", "slow", "other"),
    [
        ("pytestmark = pytest.mark.slow\n", True, False),
        ("pytestmark = [pytest.mark.slow, pytest.mark.heavy]\n", True, False),
        ("pytestmark = [\n    pytest.mark.slow,\n    pytest.mark.skipif(x[0]),\n]\n", True, False),
        ("@pytest.mark.slow\ndef test_a(): ...\n", True, True),
        ("pytestmark = [pytest.mark.heavy]\n@pytest.mark.slow\ndef test_a(): ...\n", True, True),
        ("pytestmark = pytest.mark.slower\n", False, True),
        ("def test_a(): ...\n", False, True),
    ],
)
def test_a_file_is_read_if_it_may_have_a_selected_test(text, slow, other):
    """A file is left out only if the mark that is chosen leaves out each of its tests."""
    assert order.has_none("import a\n" + text, "slow") is not slow
    assert order.has_none("import a\n" + text, "not slow") is not other
    assert not order.has_none(text, "slow or heavy")


def test_fast_leaves_out_what_py_leaves_out():
    """Each test that is marked `heavy` is marked `slow`, too."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        lines = path.read_text(encoding="utf-8").split("\n")
        whole = order.OF_ALL.search("\n".join(lines))
        for at, line in enumerate(lines):
            if line.strip() == "@pytest.mark.heavy":
                near = [*lines[at - 1 : at + 2], whole[0] if whole else ""]
                assert any("pytest.mark.slow" in each for each in near), (path, at)
        if whole and "pytest.mark.heavy" in whole[0]:
            assert "pytest.mark.slow" in whole[0], path


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_worker_begins_with_long_tests(workers):
    """Those of a file stay together, so that one worker makes what they share."""
    names = [f"tests/a.py::test[{n}]" for n in range(40)]
    for name in order.LONG:
        names += [f"{name}[{n}]" if "::" in name else f"{name}::test[{n}]" for n in range(3)]
    items = [SimpleNamespace(nodeid=name) for name in names]
    ordered = [item.nodeid for item in order.long_ones_first(items, workers)]
    assert sorted(ordered) == sorted(names)
    sizes, left = [], len(names)
    for at in range(workers):
        sizes.append(left // (workers - at))
        left -= sizes[-1]
    starts = [sum(sizes[:at]) for at in range(workers)]
    assert not any(ordered[start].startswith("tests/a.py") for start in starts)
    for path in [name for name in order.LONG if "::" not in name]:
        places = [at for at, name in enumerate(ordered) if name.startswith(path)]
        assert places == list(range(places[0], places[0] + 3))
