"""Private files: written atomically, never through links, without leftovers."""

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mixpanel._runtime import checked_files, file_lock, private_files
from mixpanel._runtime.checked_files import (
    UnsafeFileError,
    follow_own_links,
    open_checked,
    read_at_most,
    read_checked,
)
from mixpanel._runtime.file_lock import FileLock
from mixpanel._runtime.private_files import (
    close_to_others,
    create,
    create_replacing,
    is_being_written,
    make_folder,
    remove_abandoned,
    restrict,
    write,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners, modes and links of POSIX")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away"
)
NOBODY = 65534


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request):
    """Run a test under each umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


# ---- reading ------------------------------------------------------------------------------------


def make_device(path):
    """Make one that reads as /dev/zero does."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container makes no devices")


def planted(path, kind):
    """Put something at a path that is not an ordinary file of this user."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.with_name("victim").write_bytes(b"secret")
        path.symlink_to(path.with_name("victim"))
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "device":
        make_device(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "of another user":
        path.write_bytes(b"theirs")
        os.chown(path, NOBODY, NOBODY)
    elif kind == "writable by its group":
        path.write_bytes(b"anybody's")
        path.chmod(0o620)
    elif kind == "writable by all":
        path.write_bytes(b"anybody's")
        path.chmod(0o602)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2001)
    return path


KINDS = {
    "fifo": errno.EINVAL,
    "folder": errno.EISDIR,
    "link": errno.ELOOP,
    "dangling link": errno.ELOOP,
    "socket": errno.EINVAL,
    "writable by its group": errno.EPERM,
    "writable by all": errno.EPERM,
    "large": errno.EFBIG,
    "device": errno.EINVAL,
    "of another user": errno.EPERM,
}
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=as_root if kind in ("device", "of another user") else ())
        for kind in KINDS
    ],
)


@each_kind
def test_a_checked_read_accepts_only_a_private_regular_file(tmp_path, kind):
    """It refuses others at once, without blocking or reading, and gives the reason."""
    path = planted(tmp_path / "file", kind)
    with pytest.raises(UnsafeFileError) as refused:
        read_checked(path, max_bytes=2000)
    assert (KINDS[kind], str(path)) == (refused.value.errno, refused.value.filename)
    assert refused.value.strerror.startswith(("it is ", "it belongs to ", "other users may "))


@each_kind
def test_the_checks_are_made_on_the_open_descriptor(tmp_path, monkeypatch, kind):
    """Swapping the file between the check and the open gains nothing."""
    path, good = tmp_path / "file", tmp_path / "good"
    good.write_bytes(b"good")
    before = os.lstat(good)
    planted(path, kind)
    monkeypatch.setattr(checked_files.os, "lstat", lambda _: before)
    with pytest.raises(OSError, match=str(path)) as refused:
        read_checked(path, max_bytes=2000)
    # Nobody listens at a socket, and a file system may know no devices.
    assert refused.value.errno in (KINDS[kind], errno.ENXIO, errno.EACCES)


def test_a_private_file_is_read_to_its_end(tmp_path):
    """Up to the limit; an empty one, too."""
    path = tmp_path / "file"
    for body in (b"", b"x" * 2000):
        write(path, body)
        assert body == read_checked(path, max_bytes=2000)


def test_a_file_that_grows_while_it_is_read_stays_within_the_limit(tmp_path, monkeypatch):
    """The size at the time of opening is not relied on."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3000)
    small = os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, os.geteuid(), 0, 10, 0, 0, 0))
    monkeypatch.setattr(checked_files.os, "lstat", lambda _: small)
    monkeypatch.setattr(checked_files.os, "fstat", lambda _: small)
    with pytest.raises(UnsafeFileError, match="larger than 2,000 bytes"):
        read_checked(path, max_bytes=2000)


@as_root
def test_files_of_another_user_are_read_without_owned(tmp_path):
    """Unless all users may write to them."""
    path = planted(tmp_path / "file", "of another user")
    assert b"theirs" == read_checked(path, max_bytes=100, owned=False)
    path.chmod(0o646)
    with pytest.raises(UnsafeFileError, match="other users may write to it"):
        read_checked(path, max_bytes=100, owned=False)


def test_a_path_of_the_user_may_be_a_fifo_up_to_a_limit(tmp_path):
    """A FIFO is read to its end, and an endless device up to the limit."""
    path = planted(tmp_path / "fifo", "fifo")
    writer = threading.Thread(target=path.write_bytes, args=(b"typed",))
    writer.start()
    assert b"typed" == read_at_most(path, 5)
    writer.join()
    with pytest.raises(UnsafeFileError, match="larger than 1,000 bytes"):
        read_at_most("/dev/zero", 1000)


def test_own_links_are_followed_to_their_end(tmp_path):
    """From one to the next, and to a file that is not there yet."""
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "sub" / "file")
    assert tmp_path / "sub" / "file" == follow_own_links(tmp_path / "first")
    assert tmp_path / "plain" == follow_own_links(tmp_path / "plain")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UnsafeFileError, match="too many"):
        follow_own_links(tmp_path / "loop")


@as_root
def test_another_users_link_is_not_followed(tmp_path):
    """They would decide which file is used."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UnsafeFileError, match="link of another user"):
        follow_own_links(link)


# ---- writing ------------------------------------------------------------------------------------


def test_files_and_folders_are_private_under_any_umask(tmp_path, umask):
    """Also parent directories that are created, and lock files."""
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    write(folder / "written", b"1")
    create(folder / "created").close()
    os.close(create_replacing(folder / "part"))
    lock = FileLock(folder / "lock")
    assert lock.acquire()
    lock.release()
    assert (0o700, 0o700) == (mode(folder), mode(folder.parent))
    assert ["created", "lock", "part", "written"] == names(folder)
    assert {0o600} == {mode(path) for path in folder.iterdir()}


@pytest.mark.parametrize("link", ["symlink", "hard link"])
@pytest.mark.parametrize("make", [write, lambda path, body: os.close(create_replacing(path))])
def test_a_link_at_the_path_is_replaced_and_not_written_through(tmp_path, link, make):
    """What it led to keeps its content and its mode."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    victim.chmod(0o644)
    path.symlink_to(victim) if link == "symlink" else path.hardlink_to(victim)
    make(path, b"new")
    assert (b"precious", 0o644) == (victim.read_bytes(), mode(victim))
    assert not path.is_symlink()
    assert 0o600 == mode(path)


@pytest.mark.parametrize("kind", ["fifo", "folder", pytest.param("device", marks=as_root)])
def test_a_device_is_never_replaced(tmp_path, kind):
    """A process of root's would remove /dev/null for all users."""
    path = planted(tmp_path / "file", kind)
    before = os.lstat(path)
    for make in (lambda: write(path, b"new"), lambda: create_replacing(path)):
        with pytest.raises(UnsafeFileError):
            make()
    assert before.st_ino == os.lstat(path).st_ino
    assert ["file"] == names(tmp_path)


def test_an_existing_temporary_name_is_not_used(tmp_path, monkeypatch):
    """Guessing it only gains a link that nothing is written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    guessed = iter(["a" * 16, "b" * 16])
    monkeypatch.setattr(private_files.secrets, "token_hex", lambda _: next(guessed))
    (tmp_path / f".file.{'a' * 16}.tmp").symlink_to(victim)
    write(tmp_path / "file", b"new")
    assert (b"precious", b"new") == (victim.read_bytes(), (tmp_path / "file").read_bytes())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    """Whatever the failure is."""
    path = tmp_path / "file"
    write(path, b"old")

    def pieces():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, pieces())
    assert (b"old", ["file"]) == (path.read_bytes(), names(tmp_path))


def test_a_created_file_can_be_appended_to_and_is_locked_while_it_is_open(tmp_path):
    """It starts with the given content."""
    path = tmp_path / "file"
    assert not is_being_written(path)
    with create(path, [b"1\n", b"2\n"]) as file:
        private_files.write_all(file, b"3\n")
        assert is_being_written(path)
        assert b"1\n2\n3\n" == path.read_bytes()
    assert not is_being_written(path)


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path):
    """Its temporary file has a shorter one."""
    path = tmp_path / ("é" * 127)
    write(path, b"1")
    path.with_name(f".{private_files._stem(path)}.{'0' * 16}.tmp").touch()
    remove_abandoned(path)
    assert [path.name] == names(tmp_path)


@pytest.mark.slow
def test_readers_get_the_old_file_or_the_new_one(tmp_path):
    """Never a part of one, however many write at once."""
    path, stop, seen = tmp_path / "file", threading.Event(), set()
    write(path, b"0" * 100_000)

    def writes(digit):
        for _ in range(40):
            write(path, digit * 100_000)

    def reads():
        while not stop.is_set():
            body = read_checked(path, max_bytes=1_000_000)
            seen.add((len(body), len(set(body))))

    reader = threading.Thread(target=reads)
    writers = [threading.Thread(target=writes, args=(digit,)) for digit in (b"1", b"2", b"3")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert {(100_000, 1)} == seen
    assert ["file"] == names(tmp_path)


def test_restrict_changes_only_a_file_of_this_user(tmp_path):
    """Neither a link nor a file with a hard link."""
    path, victim = tmp_path / "file", tmp_path / "victim"
    for each in (path, victim):
        each.touch()
        each.chmod(0o644)
    restrict(path, 0o600)
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "second").hardlink_to(victim)
    for name in ("link", "second"):
        restrict(tmp_path / name, 0o600)
    assert (0o600, 0o644) == (mode(path), mode(victim))


def test_restrict_keeps_the_locks_of_this_process(tmp_path):
    """Opening and closing a file would release them; a database would lose its lock."""
    import fcntl

    path = tmp_path / "database"
    with path.open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        restrict(path, 0o600)
        code = (
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        other = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert b"BlockingIOError" in other.stderr.splitlines()[-1]


def test_a_folder_behind_a_link_keeps_its_mode(tmp_path):
    """Only a real directory is closed to others."""
    (tmp_path / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("real", "elsewhere"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("real", "link", "missing"):
        close_to_others(tmp_path / name)
    assert (0o700, 0o755) == (mode(tmp_path / "real"), mode(tmp_path / "elsewhere"))


# ---- what killed writers leave ------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from mixpanel._runtime.private_files import write
def pieces():
    yield b"secret" * 200_000
    print("in the middle", flush=True)
    sys.stdin.read()
    yield b" and more"
write(Path(sys.argv[1]), pieces())
"""


@pytest.fixture
def halfway():
    """Start writers, each in a process of its own, that wait in the middle of their write."""
    processes = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        processes.append(process)
        assert b"in the middle\n" == process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_temporary_files_of_a_killed_writer_are_removed_at_the_next_start(tmp_path, halfway):
    """The old file is complete, and nothing of the new one stays."""
    path = tmp_path / "file"
    write(path, b"old")
    process = halfway(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = next(one for one in tmp_path.iterdir() if one != path)
    assert (b"secret" * 200_000, 0o600) == (left.read_bytes(), mode(left))
    remove_abandoned(path)
    assert (b"old", ["file"]) == (path.read_bytes(), names(tmp_path))


def test_a_running_writer_keeps_its_temporary_file(tmp_path, halfway):
    """Cleaning up does not disturb it."""
    path = tmp_path / "file"
    process = halfway(path)
    remove_abandoned(path)
    process.communicate(b"")
    assert (0, b"secret" * 200_000 + b" and more") == (process.returncode, path.read_bytes())


def test_only_abandoned_files_of_this_name_are_removed(tmp_path):
    """Links, folders, hard links, files of others and other names stay."""
    path, digits = tmp_path / "file", "0123456789abcdef"
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / f".file.{digits}.tmp").symlink_to(victim)
    (tmp_path / f".file.{digits[::-1]}.tmp").hardlink_to(victim)
    (tmp_path / f".file.{'0' * 16}.tmp").mkdir()
    os.mkfifo(tmp_path / f".file.{'1' * 16}.tmp")
    for name in (f".file2.{digits}.tmp", f".file.{digits}.tmp~", ".file.tmp", f"file.{digits}.tmp"):
        (tmp_path / name).touch()
    if os.geteuid() == 0:
        (tmp_path / f".file.{'2' * 16}.tmp").touch()
        os.chown(tmp_path / f".file.{'2' * 16}.tmp", NOBODY, NOBODY)
    before = names(tmp_path)
    remove_abandoned(path)
    assert before == names(tmp_path)


@pytest.mark.slow
def test_concurrent_writers_and_cleaners_lose_nothing(tmp_path):
    """A file that is not locked yet may be removed as abandoned; then it is created again."""
    path, stop = tmp_path / "file", threading.Event()

    def cleans():
        while not stop.is_set():
            remove_abandoned(path)

    cleaners = [threading.Thread(target=cleans) for _ in range(2)]
    for thread in cleaners:
        thread.start()
    try:
        for number in range(200):
            write(path, str(number).encode())
            assert str(number).encode() == path.read_bytes()
    finally:
        stop.set()
        for thread in cleaners:
            thread.join()
    assert ["file"] == names(tmp_path)


# ---- locks --------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    """Also within one process; a waiting one gets it when it is released, or times out."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert not second.acquire(0.05)
    later = threading.Timer(0.05, first.release)
    later.start()
    assert second.acquire(30)
    later.join()
    assert (False, True) == (first.is_held, second.is_held)
    second.release()
    second.release()
    assert ["lock"] == names(tmp_path)


@each_kind
def test_a_lock_is_never_taken_on_a_planted_file(tmp_path, kind):
    """The planted file stays as it was."""
    if kind == "large":
        pytest.skip("a lock file is never read")
    path = planted(tmp_path / "lock", kind)
    before = os.lstat(path)
    with pytest.raises(UnsafeFileError):
        FileLock(path).acquire()
    after = os.lstat(path)
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    if kind == "link":
        assert b"secret" == (tmp_path / "victim").read_bytes()


def test_a_lock_is_never_taken_on_a_hard_link(tmp_path):
    """Its mode would be changed, and its holder would lock another file."""
    (tmp_path / "victim").touch(0o600)
    (tmp_path / "lock").hardlink_to(tmp_path / "victim")
    with pytest.raises(UnsafeFileError, match="hard link"):
        FileLock(tmp_path / "lock").acquire()


def test_a_lock_whose_file_is_removed_is_still_held_by_one_at_a_time(tmp_path):
    """A lock on a removed file does not count."""
    path, inside, most, errors = tmp_path / "lock", 0, 0, []

    def enters():
        nonlocal inside, most
        for _ in range(30):
            lock = FileLock(path, remove=True)
            if not lock.acquire(60):
                errors.append("never got it")
                return
            inside += 1
            most = max(most, inside)
            time.sleep(0)
            inside -= 1
            lock.release()

    threads = [threading.Thread(target=enters) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([], 1, []) == (errors, most, names(tmp_path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_neither_holds_nor_removes_a_lock(tmp_path):
    """It belongs to the parent, and is free when the parent releases it."""
    lock = FileLock(tmp_path / "lock", remove=True)
    assert lock.acquire()
    ours, theirs = multiprocessing.Pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            lock.release()
            theirs.send((lock.is_held, FileLock(tmp_path / "lock").acquire()))
            theirs.recv()
        os._exit(0)
    try:
        assert (False, False) == ours.recv()
        assert ["lock"] == names(tmp_path)
        lock.release()
        other = FileLock(tmp_path / "lock")
        assert other.acquire()
        other.release()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ours.close()
        theirs.close()


def test_without_flock_every_lock_is_acquired_and_no_file_is_removed(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(file_lock, "fcntl", None)
    monkeypatch.setattr(private_files, "fcntl", None)
    leftover = tmp_path / f".file.{'0' * 16}.tmp"
    leftover.touch()
    remove_abandoned(tmp_path / "file")
    write(tmp_path / "file", b"1")
    assert FileLock(tmp_path / "lock").acquire()
    assert [leftover.name, "file"] == names(tmp_path)


def test_no_descriptor_is_left_open(tmp_path):
    """Whether a file is accepted or refused."""
    write(tmp_path / "file", b"1")
    planted(tmp_path / "bad", "writable by all")
    before = len(names(Path("/dev/fd")))
    for _ in range(20):
        read_checked(tmp_path / "file", max_bytes=10)
        with pytest.raises(UnsafeFileError):
            read_checked(tmp_path / "bad", max_bytes=10)
        with pytest.raises(UnsafeFileError):
            FileLock(tmp_path / "bad").acquire()
        with suppress(ZeroDivisionError), open_checked(tmp_path / "file"):
            raise ZeroDivisionError
        lock = FileLock(tmp_path / "lock")
        assert lock.acquire()
        assert not FileLock(tmp_path / "lock").acquire()
        lock.release()
        remove_abandoned(tmp_path / "file")
    assert before == len(names(Path("/dev/fd")))
