"""Temporary folders of one process, removed even if the process is killed."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading

import pytest

from mixpanel._runtime.temporary_folders import (
    make_temporary_folder,
    remove_temporary_folder,
    temporary_folder,
)
from mixpanel.data import Workspace

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs flock")
MAKER = """
import sys
from mixpanel._runtime.temporary_folders import make_temporary_folder
folder = make_temporary_folder()
(folder / "events.ndjson").write_text("secret")
print(folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path, monkeypatch):
    """Make temporary folders here and nowhere else."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def maker():
    """Start another process that makes a folder and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_a_temporary_folder_is_private_and_removed(parent, umask):
    """Under any umask, with all that is in it."""
    before = os.umask(umask)
    try:
        with temporary_folder() as folder:
            assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
            (folder / "file").touch()
    finally:
        os.umask(before)
    assert [] == names(parent)


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(parent, maker):
    """While the process lives, its folder stays."""
    with temporary_folder():
        assert 2 == len(names(parent))
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    with temporary_folder() as folder:
        assert [folder.name] == names(parent)


def test_nothing_else_in_the_temporary_folder_is_touched(parent, tmp_path):
    """Links, files, folders that others may enter, and other names stay."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    (victim / "precious").touch()
    (parent / f"mixpanel-{'0' * 16}").symlink_to(victim)
    (parent / f"mixpanel-{'1' * 16}").touch()
    (parent / f"mixpanel-{'2' * 16}").mkdir()
    (parent / f"mixpanel-{'2' * 16}").chmod(0o755)
    (parent / "mixpanel-mine").mkdir(mode=0o700)
    if os.geteuid() == 0:
        (parent / f"mixpanel-{'3' * 16}").mkdir(mode=0o700)
        os.chown(parent / f"mixpanel-{'3' * 16}", 65534, 65534)
    before = names(parent)
    with temporary_folder():
        pass
    assert before == names(parent)
    assert ["precious"] == names(victim)


def test_many_processes_at_once_keep_their_folders(parent):
    """A folder that is not locked yet may be taken for abandoned; then another is made."""
    lost = []

    def makes():
        for _ in range(25):
            folder = make_temporary_folder()
            (folder / "file").touch()
            if names(folder) != ["file"]:
                lost.append(folder)
            remove_temporary_folder(folder)

    threads = [threading.Thread(target=makes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == lost
    assert [] == names(parent)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Workspace.memory, Workspace.ephemeral])
def test_a_workspace_without_a_file_leaves_no_folder(parent, monkeypatch, make):
    """After it is closed."""
    for name, value in {"USERNAME": "u", "SECRET": "s", "PROJECT_ID": "42"}.items():
        monkeypatch.setenv(f"MP_{name}", value)
    with make() as ws:
        assert 1 == ws.sql_scalar("SELECT 1")
        assert 1 == len(names(parent))
    assert [] == names(parent)
