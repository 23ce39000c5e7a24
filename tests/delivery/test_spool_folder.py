"""Which folders a spool accepts, and who owns the files in them."""

import os
import stat

import pytest

from mixpanel import AsyncBufferedConsumer, BufferedConsumer, ConfigurationError, Consumer
from mixpanel._delivery.spool import folder as spool_folder
from mixpanel._delivery.spool.folder import (
    Destination,
    check_folder,
    checked_path,
    claim_orphan,
    create_file,
    destination_folder,
    file_system_of,
    free_bytes,
    newer_files,
    quarantine,
    quarantined,
    read_destination,
    remove_file,
    spool_files,
)
from mixpanel._delivery.spool.options import checked_durability, checked_folder
from mixpanel._runtime.checked_files import UnsafeFileError

THERE = Destination("mixpanel", ("https://api.mixpanel.com", "secret"), {"origin": "https://x"})


def made(path, **options):
    return AsyncBufferedConsumer(spool=path, **options)


def test_a_new_folder_is_private_whatever_the_umask(tmp_path):
    """Folders have mode 0700 and files 0600, and the description holds no secret."""
    before = os.umask(0)
    try:
        inner = destination_folder(tmp_path / "a" / "spool", THERE)
        path, lock = create_file(inner)
    finally:
        os.umask(before)
    assert stat.S_IMODE(inner.stat().st_mode) == 0o700
    assert stat.S_IMODE(inner.parent.stat().st_mode) == 0o700
    for each in inner.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
        assert b"secret" not in each.read_bytes()
    assert read_destination(inner) == {"service": "mixpanel", "origin": "https://x"}
    assert "secret" not in inner.name
    assert path.parent == inner
    lock.release()


def test_a_umask_without_owner_rights_does_not_matter(tmp_path):
    """The owner can write, even if the umask removes that right."""
    before = os.umask(0o777)
    try:
        path, lock = create_file(destination_folder(tmp_path / "spool", THERE))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX only")
@pytest.mark.parametrize("existing", [False, True])
def test_the_names_of_new_folders_are_synced(tmp_path, monkeypatch, existing):
    """After a power failure the folder of a message that was committed is there."""
    synced, fsync = set(), os.fsync

    def noted(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    spool = tmp_path / "a" / "spool"
    if existing:  # by a process that may not have synced it
        spool.mkdir(parents=True)
    destination_folder(spool, THERE)
    wanted = [spool, spool.parent] if existing else [spool, spool.parent, tmp_path]
    assert {path.stat().st_ino for path in wanted} <= synced


@pytest.mark.parametrize("inner", [False, True])
def test_a_symbolic_link_is_refused(tmp_path, inner):
    """Neither the folder nor that of a destination may be a link."""
    target, link = tmp_path / "target", tmp_path / "spool"
    target.mkdir()
    if inner:
        link.mkdir()
        name = made(link)._sender.buffer.options.destination.folder_name
        (link / name).symlink_to(target)
    else:
        link.symlink_to(target)
    with pytest.raises(ConfigurationError, match="symbolic link: use the path"):
        made(link)


def test_a_file_is_refused(tmp_path):
    """A spool is a folder."""
    (tmp_path / "spool").write_text("")
    with pytest.raises(ConfigurationError, match="is not a folder"):
        made(tmp_path / "spool")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_may_write_is_refused(tmp_path, mode):
    """Others could read what is planned to be sent, or plant files."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool").chmod(mode)
    with pytest.raises(ConfigurationError, match=r"other users.*chmod go-w"):
        made(tmp_path / "spool")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    """The owner of a folder decides what is in it."""
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        check_folder(tmp_path / "spool")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path, monkeypatch, kind):
    """Locks are not reliable there; a folder that does not exist yet is checked by its parent."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    name = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"36 35 {name} / /mnt rw,noatime master:1 - {kind} server:/x rw\n")
    monkeypatch.setattr(spool_folder, "MOUNTS", mounts)
    for path in (tmp_path, tmp_path / "not" / "yet"):
        with pytest.raises(ConfigurationError, match=rf"network file system \({kind}\)"):
            made(path)


def test_the_mount_of_the_folder_s_own_device_decides(tmp_path, monkeypatch):
    """Other mounts and lines that are not understood say nothing about it."""
    device = tmp_path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(spool_folder, "MOUNTS", mounts)
    assert file_system_of(tmp_path) is None  # there is no list
    mounts.write_bytes(
        b"short - ext4 x rw\n"
        b"34 1 0:0 / /\xff rw - ext4 x rw\n"
        b"35 1 %(name)b / /cut rw -\n"
        b"36 35 0:0 / /mnt rw - nfs4 server:/x rw\n"
        b"37 35 %(name)b / /data rw - btrfs /dev/sda rw\n" % {b"name": name.encode()}
    )
    assert file_system_of(tmp_path) == "btrfs"
    check_folder(tmp_path)
    mounts.write_text(f"37 35 {name} - nfs4 x\n")
    with pytest.raises(ConfigurationError, match="network file system"):
        check_folder(tmp_path)


def test_nothing_is_created_through_a_symbolic_link(tmp_path):
    """Not before it is refused, either."""
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigurationError, match="symbolic link"):
        destination_folder(tmp_path / "link", THERE)
    assert list(target.iterdir()) == []


def test_files_are_listed_by_name_whatever_the_file_system_does(tmp_path, monkeypatch):
    """So that two listings can be compared."""
    names = ["b.db.corrupt-1", "a.db.corrupt-1", "a.db.corrupt-1-wal"]
    monkeypatch.setattr(spool_folder.os, "listdir", lambda folder: names)
    assert [each.name for each in quarantined(tmp_path)] == ["a.db.corrupt-1", "b.db.corrupt-1"]


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path):
    """With the reason of the system."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used: Not a directory"):
        check_folder(tmp_path / "file" / "spool")


def test_the_free_space_of_a_disk_is_what_this_user_may_write(tmp_path):
    """Not what is reserved for root."""
    found = os.statvfs(tmp_path)
    assert found.f_frsize * found.f_blocks >= free_bytes(tmp_path) > 0


def test_a_description_that_cannot_be_read_is_empty(tmp_path):
    """Its folder is still listed."""
    assert read_destination(tmp_path) == {}
    for content in ("[1]", "{", "\udc80"):
        (tmp_path / "destination.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        assert read_destination(tmp_path) == {}
    (tmp_path / "destination.json").write_text('{"service": 1}')
    assert read_destination(tmp_path) == {"service": "1"}


def test_only_files_of_a_later_format_are_newer(tmp_path):
    """Files of this format and other files are not."""
    for name in ("0123456789abcdef.v1.db", "0123456789abcdef.v2.db", "other.v3.db"):
        (tmp_path / name).write_bytes(b"")
    assert [each.name for each in newer_files(tmp_path)] == ["0123456789abcdef.v2.db"]
    assert newer_files(tmp_path / "missing") == []


def test_files_of_a_newer_version_are_refused(tmp_path):
    """An older version neither reads nor loses what a newer one has written."""
    inner = destination_folder(tmp_path, THERE)
    newer = inner / "0123456789abcdef.v2.db"
    newer.write_bytes(b"future")
    with pytest.raises(ConfigurationError, match=r"\(format 2; this one reads 1\): upgrade"):
        destination_folder(tmp_path, THERE)
    assert spool_files(inner) == []
    consumer = made(tmp_path)
    name = consumer._sender.buffer.options.destination.folder_name
    inner.rename(tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"newer version.*upgrade"):
        made(tmp_path)
    assert (tmp_path / name / newer.name).read_bytes() == b"future"


@pytest.mark.parametrize("path", ["", "  ", "a\0b", 7, b"bytes", True])
def test_what_is_not_a_path_is_refused(path):
    """At construction, not at the first message."""
    with pytest.raises(ConfigurationError, match="must be the path of a folder"):
        made(path)


def test_a_path_object_must_be_one_of_text():
    """A path of bytes has no place in an error, nor in a URL of SQLite."""

    class Bytes:
        def __fspath__(self):
            return b"spool"

    with pytest.raises(ConfigurationError, match="must be the path of a folder"):
        checked_path(Bytes())


def test_the_error_names_the_setting(tmp_path, monkeypatch):
    """`spool`, or the variable that replaced it."""
    with pytest.raises(ConfigurationError, match=r"^spool="):
        checked_folder("", THERE)
    monkeypatch.setenv("MP_SPOOL", "")
    with pytest.raises(ConfigurationError, match=r"^MP_SPOOL="):
        checked_folder(None, THERE)
    assert checked_folder(tmp_path, THERE) == tmp_path
    assert checked_durability("power") == "power"


def test_options_that_do_not_go_together_are_refused(tmp_path):
    """Each with what to do instead."""
    with pytest.raises(ConfigurationError, match="needs a client that buffers"):
        Consumer(spool=tmp_path)
    with pytest.raises(ConfigurationError, match="durability= needs spool="):
        made(None, durability="power")
    with pytest.raises(ConfigurationError, match="'process' or 'power'"):
        made(tmp_path, durability="fsync")
    with pytest.raises(ConfigurationError, match="drop_oldest"):
        made(tmp_path, when_full="drop_oldest")


def test_the_environment_names_a_spool(tmp_path, monkeypatch):
    """`MP_SPOOL` is for consumers that buffer; False is for none."""
    monkeypatch.setenv("MP_SPOOL", str(tmp_path / "spool"))
    assert BufferedConsumer().health().spool.folder == str(tmp_path / "spool")
    assert BufferedConsumer(spool=False).health().spool is None
    assert Consumer().health().spool is None
    assert not (tmp_path / "spool").exists()  # until the first message
    monkeypatch.setenv("MP_SPOOL", "/dev/null")
    with pytest.raises(ConfigurationError, match="MP_SPOOL='/dev/null' is not a folder"):
        BufferedConsumer()


def test_a_file_belongs_to_one_owner(tmp_path):
    """What is locked cannot be claimed, also by another object in the same process."""
    inner = destination_folder(tmp_path, THERE)
    path, lock = create_file(inner)
    assert spool_files(inner) == [path]
    assert claim_orphan(path) is None
    lock.release()
    claimed = claim_orphan(path)
    assert claimed is not None
    remove_file(path)
    claimed.release()
    assert claim_orphan(path) is None
    assert [each.name for each in inner.iterdir()] == ["destination.json"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_planted_file_is_not_claimed(tmp_path, suffix):
    """A link in the place of a database or its WAL is refused."""
    inner = destination_folder(tmp_path, THERE)
    path, lock = create_file(inner)
    lock.release()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = path.with_name(path.name + suffix)
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim)
    with pytest.raises(OSError, match="not a regular file"):
        claim_orphan(path)
    assert victim.read_text() == "precious"
    planted.unlink()
    (path if suffix else planted).touch()
    again = claim_orphan(path)
    assert again is not None  # the refusal left no lock
    again.release()


@pytest.mark.parametrize("how", ["another user", "hard link"])
def test_a_file_that_others_can_change_is_not_claimed(tmp_path, monkeypatch, how):
    """Its messages would be sent with the credentials of this user."""
    inner = destination_folder(tmp_path, THERE)
    path, lock = create_file(inner)
    lock.release()
    if how == "hard link":
        os.link(path, tmp_path / "second")
    else:
        look = os.lstat
        found = look(path)
        theirs = os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))
        monkeypatch.setattr(
            spool_folder.os, "lstat", lambda each: theirs if each == path else look(each)
        )
    with pytest.raises(UnsafeFileError, match="another user, or is a hard link"):
        claim_orphan(path)


def test_a_file_that_cannot_be_created_leaves_no_lock(tmp_path, monkeypatch):
    """Neither held nor on disk."""
    inner = destination_folder(tmp_path, THERE)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool_folder, "open_flags", full)
        with pytest.raises(OSError, match="No space"):
            create_file(inner)
    assert [each.name for each in inner.iterdir()] == ["destination.json"]


def test_a_damaged_file_is_kept_with_its_companions(tmp_path):
    """Under names that do not replace an earlier one's."""
    inner = destination_folder(tmp_path, THERE)
    names = set()
    for _ in range(3):
        path, lock = create_file(inner)
        fixed = path.with_name("0123456789abcdef.v1.db")
        path.rename(fixed)
        fixed.with_name(fixed.name + "-wal").write_text("wal")
        fixed.with_name(fixed.name + "-shm").write_text("shm")
        kept = quarantine(fixed)
        names.add(kept.name)
        assert kept.with_name(kept.name + "-wal").read_text() == "wal"
        lock.release()
    assert len(names) == 3
    assert len(quarantined(inner)) == 3
    assert spool_files(inner) == []
