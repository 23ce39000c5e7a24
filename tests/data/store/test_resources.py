"""The memory and threads of the database: those of the machine, its container, or as set."""

import pytest

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.store import Database, resources

GB = 1024**3


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return what sets the control groups of this process: a path, and files with their text."""
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(resources, "_machine_memory", lambda: 64 * GB)
    monkeypatch.setattr(resources, "_duckdb_version", lambda: (1, 5))
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda _: range(32), raising=False)
    monkeypatch.delenv("MP_MEMORY_LIMIT", raising=False)
    monkeypatch.delenv("MP_THREADS", raising=False)

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def test_a_machine_without_groups_gives_all_it_has(groups):
    """Half of it is the limit of the database, and each processor is a thread."""
    assert (64 * GB, 32) == (resources.available_memory(), resources.available_processors())
    assert 32 * GB == resources.memory_limit()
    assert 32 == resources.threads(memory=32 * GB)
    assert 3 == resources.threads(memory=1_000_000_000)
    assert 1 == resources.threads(memory=50_000_000)


def test_duckdb_1_4_has_one_thread_unless_more_are_set(groups, monkeypatch):
    """A load of a malformed file with several of its threads may never end."""
    monkeypatch.setattr(resources, "_duckdb_version", lambda: (1, 4))
    assert 1 == resources.threads(memory=32 * GB)
    assert 4 == resources.threads(4, memory=32 * GB)
    monkeypatch.setenv("MP_THREADS", "2")
    assert 2 == resources.threads(memory=32 * GB)


def test_the_smallest_group_of_version_2_holds(groups):
    """Also one that is around the own one; `max` is no limit."""
    groups(
        "0::/a/b\n",
        {
            "a/b/memory.max": "max\n",
            "a/memory.max": f"{2 * GB}\n",
            "memory.max": f"{8 * GB}\n",
            "a/b/cpu.max": "150000 100000\n",
            "a/cpu.max": "max 100000\n",
        },
    )
    assert (2 * GB, 2) == (resources.available_memory(), resources.available_processors())


def test_groups_of_version_1_hold_as_well(groups):
    """No limit is a number near 2**63, and a quota of -1."""
    groups(
        "7:cpu,cpuacct:/x\n6:memory:/x\n0::/\n",
        {
            "memory/x/memory.limit_in_bytes": f"{GB}\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu,cpuacct/x/cpu.cfs_quota_us": "400000\n",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert (GB, 4) == (resources.available_memory(), resources.available_processors())


@pytest.mark.parametrize(
    ("size", "expected"),
    [("2GB", 2 * 10**9), ("1.5 g", 15 * 10**8), ("512MiB", 2**29), (10**8, 10**8)],
)
def test_sizes_are_read_with_their_units(size, expected):
    """Powers of 1000, or of 1024 with an i."""
    assert expected == resources.memory_limit(size)


@pytest.mark.parametrize("size", ["", "much", "-1GB", "2 apples", "1MB", 0, True, None, 1.5])
def test_an_invalid_size_is_refused(size):
    """With the name of what was set."""
    with pytest.raises(ConfigError, match="memory_limit="):
        resources.parsed_size(size)


@pytest.mark.parametrize("given", [0, -1, 5000, "two", True, 1.5])
def test_an_invalid_number_of_threads_is_refused(given):
    """With the name of what was set."""
    with pytest.raises(ConfigError, match="threads="):
        resources.threads(given, memory=GB)


def settings(db):
    query = "SELECT current_setting('memory_limit'), current_setting('threads')"
    return db.sql_rows(query).rows[0]


@pytest.mark.slow
def test_the_environment_sets_both_and_an_argument_wins(groups, monkeypatch, tmp_path):
    """They cannot be changed by SQL afterwards."""
    monkeypatch.setenv("MP_MEMORY_LIMIT", "300MiB")
    monkeypatch.setenv("MP_THREADS", "3")
    with Database.open(tmp_path / "a.db") as db:
        assert ("300.0 MiB", 3) == settings(db)
        with Database.open(tmp_path / "a.db", memory_limit="1GB", threads=1) as second:
            assert ("300.0 MiB", 3) == settings(second)  # one DuckDB in a process
    with Database.open(tmp_path / "a.db", memory_limit="400MiB", threads=1) as db:
        assert ("400.0 MiB", 1) == settings(db)
    monkeypatch.setenv("MP_THREADS", "many")
    with pytest.raises(ConfigError, match="MP_THREADS='many'"):
        Database.open(tmp_path / "a.db")
