"""What the package does when the process forks."""

import ast
import gc
import os
from pathlib import Path
from weakref import WeakSet

import pytest

import mixpanel
from mixpanel._runtime import fork

pytestmark = pytest.mark.slow

PACKAGE = Path(mixpanel.__file__).parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Recorder:
    """An instance that adds its name to a list in forked children."""

    def __init__(self, calls, name):
        self._calls = calls
        self._name = name

    def after_fork(self):
        self._calls.append(self._name)


@pytest.fixture
def registry(monkeypatch):
    """Leave the package's own handlers out, and drop those of the test at its end."""
    monkeypatch.setattr(fork, "_before", [])
    monkeypatch.setattr(fork, "_in_parent", [])
    monkeypatch.setattr(fork, "_in_child", {order: [] for order in fork.Order})
    monkeypatch.setattr(fork, "_instances", {order: WeakSet() for order in fork.Order})


def lines_in_child(calls):
    """Fork, and return what the child finds in `calls`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, " ".join(calls).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    os.waitpid(pid, 0)
    return found.split()


@needs_fork
@pytest.mark.usefixtures("registry")
def test_a_child_is_restored_step_by_step():
    """Locks first, then loops, senders and clients, in whatever order they were registered."""
    calls = []
    for order in reversed(fork.Order):
        fork.register(order, after_in_child=lambda name=order.name: calls.append(name))

    assert lines_in_child(calls) == ["LOCKS", "LOOPS", "SENDERS", "CLIENTS"]


@needs_fork
@pytest.mark.usefixtures("registry")
def test_an_instance_is_restored_after_the_callbacks_of_its_step():
    """A callback may renew what all instances of the step share."""
    calls = []
    instance = Recorder(calls, "instance")
    fork.register_instance(fork.Order.LOCKS, instance)
    fork.register(fork.Order.LOCKS, after_in_child=lambda: calls.append("callback"))
    fork.register(fork.Order.LOOPS, after_in_child=lambda: calls.append("next-step"))

    assert lines_in_child(calls) == ["callback", "instance", "next-step"]


@needs_fork
@pytest.mark.usefixtures("registry")
def test_the_registry_does_not_keep_an_instance_alive():
    """A client that was dropped costs nothing at the next fork."""
    calls = []
    instance = Recorder(calls, "dropped")
    fork.register_instance(fork.Order.CLIENTS, instance)
    del instance
    gc.collect()

    assert lines_in_child(calls) == []


@needs_fork
@pytest.mark.usefixtures("registry")
def test_the_parent_runs_its_own_callbacks_around_the_fork():
    """Those before it in reverse order of registration, as `os.register_at_fork` has it."""
    calls = []
    for name in "first", "second":
        fork.register(
            fork.Order.LOCKS,
            before=lambda name=name: calls.append(f"before-{name}"),
            after_in_parent=lambda name=name: calls.append(f"after-{name}"),
        )

    assert lines_in_child(calls) == ["before-second", "before-first"]
    assert calls == ["before-second", "before-first", "after-first", "after-second"]


@needs_fork
@pytest.mark.usefixtures("registry")
def test_a_failing_callback_does_not_keep_the_others_from_running(caplog):
    """It is logged in the process in which it fails."""
    calls = []

    def fail():
        raise RuntimeError("broken")

    fork.register(fork.Order.LOCKS, before=fail, after_in_child=fail)
    fork.register(
        fork.Order.LOCKS,
        before=lambda: calls.append("before"),
        after_in_child=lambda: calls.append("child"),
    )

    assert lines_in_child(calls) == ["before", "child"]
    assert [record.message for record in caplog.records] == ["a fork handler failed"]


def test_only_the_registry_calls_register_at_fork():
    """So the order of all handlers is defined in one place."""
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "register_at_fork"
    }

    assert users == {"_runtime/fork.py"}
