"""Copies and pickles of workspaces: the same project and database, connections of their own."""

import multiprocessing
import pickle

import pytest

from mixpanel.data import AsyncWorkspace, Credentials, Workspace
from tests.cli.cli_data import FIRST, LAST, PER_DAY, fill
from tests.clients.test_copies import NOWHERE, WAYS, each_way

SECRET = "cAnArY-secret"
ROBOT = Credentials(username="robot", secret=SECRET, project_id="42", region="eu")
both = pytest.mark.parametrize("kind", [Workspace, AsyncWorkspace])


class Tagged(Workspace):
    """A subclass as programs write them, with attributes of its own."""

    def __init__(self, tag, **options):
        super().__init__(**options)
        self.tags = [tag]


def settings(workspace):
    """Return what a workspace was made with."""
    core = workspace._core
    return {name: value for name, value in vars(core).items() if type(value).__module__ in (
        "builtins", "pathlib", "mixpanel.data.credentials",
    ) and name != "_settings"}  # fmt: skip


@both
@each_way
def test_a_copy_has_the_same_settings(kind, copied, tmp_path, monkeypatch):
    """The credentials are those of the original, whatever the environment has by then."""
    monkeypatch.setenv("MP_WORKSPACE_ID", "7")
    workspace = kind(
        credentials=ROBOT, path=tmp_path / "x.db", base_url=NOWHERE, on_wait=print, max_wait=3.0,
        read_only=True, memory_limit="1GB", threads=2, external_access=True,
    )  # fmt: skip
    monkeypatch.delenv("MP_WORKSPACE_ID")
    new = copied(workspace)
    assert type(new) is kind
    assert new._core is not workspace._core
    assert settings(new) == settings(workspace)
    assert settings(new)["workspace_id"] == 7
    assert new._core._on_wait is print


@each_way
def test_the_halves_of_a_sync_workspace_stay_together(copied):
    """Its async half and it share one core, as those of the original do."""
    new = copied(Workspace(credentials=ROBOT))
    assert new._async._core is new._core


@each_way
def test_what_a_subclass_adds_is_copied_as_usual(copied):
    """Its constructor, which may have other parameters, is not called."""
    new = copied(Tagged("x", credentials=ROBOT))
    assert (type(new), new.tags, new.credentials) == (Tagged, ["x"], ROBOT)


@pytest.mark.slow
@both
@each_way
def test_a_copy_of_an_open_workspace_reads_the_same_file(kind, copied, tmp_path):
    """Also one that was opened without credentials, while the original is in use."""
    path = tmp_path / "x.db"
    with Workspace(credentials=ROBOT, path=path) as made:
        made.database.connection.execute("CREATE TABLE t AS SELECT 17 AS n")
    workspace = kind.open(path)
    assert workspace.sql_scalar("SELECT n FROM t") == 17
    new = copied(workspace)
    assert new.sql_scalar("SELECT n FROM t") == 17
    workspace._core.close_database()
    assert new.sql_scalar("SELECT n FROM t") == 17
    new._core.close_database()


@pytest.mark.slow
@each_way
def test_a_copy_of_a_workspace_in_memory_begins_empty(copied):
    """It is in memory, too, and no file is made."""
    with Workspace.memory(credentials=ROBOT) as workspace:
        workspace.connection.execute("CREATE TABLE t AS SELECT 17 AS n")
        with copied(workspace) as new:
            assert new.db_path is None
            assert (
                new.sql_scalar("SELECT count(*) FROM duckdb_tables() WHERE table_name = 't'") == 0
            )
        assert workspace.sql_scalar("SELECT n FROM t") == 17


@pytest.mark.slow
@each_way
def test_a_copy_of_a_closed_workspace_is_open(copied, tmp_path):
    """Closing ends connections, not settings."""
    workspace = Workspace(credentials=ROBOT, path=tmp_path / "x.db")
    workspace.close()
    with copied(workspace) as new:
        assert new.sql_scalar("SELECT 1") == 1


@both
def test_only_the_pickle_itself_shows_the_secret(kind):
    """Neither a copy nor its attributes do; a pickle has to, for a process that is spawned."""
    workspace = kind(credentials=ROBOT)
    for new in (workspace, *(copied(workspace) for copied in WAYS.values())):
        assert SECRET not in repr(vars(new)) + repr(vars(new._core)) + repr(new.__getstate__())
    assert SECRET.encode() in pickle.dumps(workspace)


def _fetch(workspace):
    """Fetch in another process, into a database of its own, and count."""
    with workspace:
        return workspace.fetch_events(from_date=FIRST, to_date=LAST).rows


@pytest.mark.slow
def test_a_workspace_goes_through_a_spawn_pool(emu):
    """With its credentials."""
    fill(emu)
    with (
        Workspace.memory(credentials=ROBOT, base_url=emu.url) as workspace,
        multiprocessing.get_context("spawn").Pool(1) as pool,
    ):
        assert pool.map(_fetch, [workspace]) == [3 * PER_DAY]
        pool.close()
        pool.join()
