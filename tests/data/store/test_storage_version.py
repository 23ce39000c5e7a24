"""Database files of every DuckDB that is allowed: the oldest one opens what the newest wrote."""

import json
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from unittest.mock import Mock

import duckdb
import pytest
from packaging.requirements import Requirement

from mixpanel.data._fetch.plan import Filters
from mixpanel.data.exceptions import ConfigError
from mixpanel.data.store import Database, engine
from tests import peers

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
READ = """
import json, sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
rows = connection.execute("SELECT n, properties FROM mine ORDER BY n LIMIT 3").fetchall()
tables = connection.execute("SELECT count(*) FROM _metadata").fetchone()
print(json.dumps([duckdb.__version__, rows, tables]))
"""


def storage_version(path):
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS file (READ_ONLY)")
        query = "SELECT tags['storage_version'] FROM duckdb_databases() WHERE path IS NOT NULL"
        return connection.execute(query).fetchone()[0]


def test_the_storage_version_is_that_of_the_oldest_duckdb_allowed():
    """The bound of the extra `data` and the format of the files name the same release."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    lines = project["project"]["optional-dependencies"]["data"]
    [bound] = [Requirement(each) for each in lines if each.startswith("duckdb")]
    oldest = tuple(int(each) for each in next(iter(bound.specifier)).version.split("."))
    assert engine.MINIMUM_VERSION == oldest
    assert f"v{oldest[0]}.{oldest[1]}.0" == engine.STORAGE_VERSION


@pytest.mark.slow
def test_new_files_have_the_storage_version(tmp_path):
    """Whatever DuckDB is installed; a file keeps the format that it was created with."""
    Database.open(tmp_path / "new.db").close()
    assert f"{engine.STORAGE_VERSION}+" == storage_version(tmp_path / "new.db")
    with duckdb.connect(tmp_path / "old.db", config={"storage_compatibility_version": "v1.0.0"}):
        pass
    with Database.open(tmp_path / "old.db") as database:
        database.sql_rows("CREATE TABLE one AS SELECT 1 AS i", write=True)
    assert "v1.0.0+" == storage_version(tmp_path / "old.db")


def test_a_file_of_a_newer_duckdb_is_named_as_such(tmp_path, monkeypatch):
    """The error has the command that upgrades DuckDB."""
    path = tmp_path / "future.db"
    Database.open(path).close()
    message = "IO Error: Trying to read a database file with version number 999, but we can only"
    monkeypatch.setattr(duckdb, "connect", Mock(side_effect=duckdb.IOException(message)))
    with pytest.raises(ConfigError, match=r"written by a newer DuckDB than .*install --upgrade"):
        Database.open(path)


@pytest.mark.slow
@pytest.mark.parametrize("clean", [True, False])
def test_the_oldest_duckdb_reads_a_file(tmp_path, clean):
    """Its rows and records are there, also from the log of a process that was killed."""
    interpreter = peers.python("duckdb")
    if not interpreter.exists():
        pytest.skip("python -m tests.peers duckdb makes its environment")
    path = tmp_path / "shop.db"
    database = Database.open(path)
    database.begin_events("events", filters=Filters(), mode="new", days=[date(2026, 1, 1)]).finish()
    database.sql_rows(
        "CREATE TABLE mine AS SELECT n, '{\"a\":1}'::JSON AS properties, 2::HUGEINT ** 100 AS h, "
        "[{'x': n}] AS l FROM range(200_000) AS r(n)", write=True,
    )  # fmt: skip
    copy = tmp_path / "copy.db"
    if clean:
        database.close()
        path.rename(copy)
    else:
        database.sql_rows("INSERT INTO mine VALUES (-1, '{}', 0, [])", write=True)
        copy.write_bytes(path.read_bytes())
        Path(f"{copy}.wal").write_bytes(Path(f"{path}.wal").read_bytes())
        database.close()
    out = subprocess.run(
        [interpreter, "-I", "-c", READ, copy], capture_output=True, text=True, check=True
    )
    version, rows, tables = json.loads(out.stdout)
    assert ".".join(map(str, engine.MINIMUM_VERSION)) == version
    assert [2] == tables
    expected = [[n, '{"a":1}'] for n in range(3)]
    assert (expected if clean else [[-1, "{}"], *expected[:2]]) == rows
