"""`mp export`: tables as files that other tools read."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from tests.cli.cli_data import fetched


@pytest.fixture(scope="module")
def mp(tmp_path_factory):
    """Keep a database of three days of orders, and ask it without any credentials."""
    return fetched(tmp_path_factory.mktemp("export"))


def count(mp, source):
    """Count the rows of a file with DuckDB."""
    query = f"SELECT count(*) FROM {source}"
    return json.loads(mp("query", "sql", "--external", "-s", query).stdout)


@pytest.mark.slow
def test_a_table_is_exported_to_one_parquet_file(mp, tmp_path):
    """It is replaced only with --overwrite."""
    path = tmp_path / "events.parquet"
    result = mp("export", "parquet", "events", path)
    assert (ExitCode.OK, "") == (result.exit_code, result.stdout)
    assert f"wrote events to {path}: 1 file\n" == result.stderr
    assert 72 == count(mp, f"'{path}'")
    again = mp("export", "parquet", "events", path)
    assert ExitCode.USAGE == again.exit_code
    assert again.stderr.endswith("--overwrite replaces it\n")
    assert ExitCode.OK == mp("export", "parquet", "events", path, "--overwrite").exit_code


@pytest.mark.slow
def test_parquet_may_be_partitioned_by_day(mp, tmp_path):
    """Exporting again makes no duplicates."""
    lake = tmp_path / "lake"
    for overwrite in ([], ["--overwrite"]):
        result = mp("export", "parquet", "events", lake, "--partition-by", "day", *overwrite)
        assert ExitCode.OK == result.exit_code, result.stderr
    days = sorted(one.name for one in lake.iterdir())
    assert ["day=2026-01-01", "day=2026-01-02", "day=2026-01-03"] == days
    assert 72 == count(mp, f"read_parquet('{lake}/**/*.parquet', hive_partitioning = true)")
    profiles = mp("export", "parquet", "profiles", tmp_path / "p", "--partition-by", "day")
    assert ExitCode.USAGE == profiles.exit_code
    file = mp("export", "parquet", "events", tmp_path / "w.parquet", "--partition-by", "day")
    assert ExitCode.USAGE == file.exit_code
    assert file.stderr.endswith("no --partition-by writes one file\n")


@pytest.mark.slow
def test_a_table_is_exported_to_a_csv_file(mp, tmp_path):
    """Compressed if the name ends in .gz."""
    plain, small = tmp_path / "events.csv", tmp_path / "events.csv.gz"
    assert ExitCode.OK == mp("export", "csv", "events", plain).exit_code
    assert ExitCode.OK == mp("export", "csv", "events", small).exit_code
    assert sorted(plain.read_text().splitlines()) == sorted(
        gzip.decompress(small.read_bytes()).decode().splitlines()
    )
    rows = list(csv.DictReader(io.StringIO(plain.read_text())))
    assert 72 == len(rows)
    assert ExitCode.USAGE == mp("export", "csv", "events", plain).exit_code


def test_csv_may_go_to_stdout(mp):
    """With a dash, and nothing else does."""
    result = mp("export", "csv", "events", "-")
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert 72 == len(rows)
    assert {"Order Paid", "Order Shipped", "Paid, late"} == {row["event_name"] for row in rows}


@pytest.mark.slow
def test_a_missing_table_or_database_is_not_found(mp, tmp_path):
    """And no file is left behind."""
    for kind in ("parquet", "csv"):
        path = tmp_path / f"nope.{kind}"
        assert ExitCode.NOT_FOUND == mp("export", kind, "nope", path).exit_code
        absent = mp("export", kind, "events", path, "--db", tmp_path / "none.db")
        assert ExitCode.NOT_FOUND == absent.exit_code
    assert ExitCode.NOT_FOUND == mp("export", "csv", "nope", "-").exit_code
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_rows_of_a_query_are_exported(mp, tmp_path):
    """With --sql, the path is the only argument."""
    query = "SELECT event_name, count(*) AS n FROM events GROUP BY 1 ORDER BY 1;"
    path = tmp_path / "counts.csv"
    result = mp("export", "csv", path, "--sql", query)
    assert (ExitCode.OK, f"wrote the rows to {path}: 1 file\n") == (result.exit_code, result.stderr)
    text = 'event_name,n\nOrder Paid,24\nOrder Shipped,24\n"Paid, late",24\n'
    assert text == path.read_text()
    assert text == mp("export", "csv", "-", "--sql", query).stdout
    for file, more in (("o.parquet", []), ("lake", ["--partition-by", "day"])):
        found = mp("export", "parquet", tmp_path / file, "--sql", "FROM events LIMIT 5", *more)
        assert ExitCode.OK == found.exit_code, found.stderr
    assert 5 == count(mp, f"'{tmp_path}/o.parquet'")
    assert 5 == count(mp, f"read_parquet('{tmp_path}/lake/**/*.parquet')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["events"], "PATH is missing"),
        (["events", "x.csv", "--sql", "FROM events"], "cannot be used together"),
        (["x.csv", "--sql", " "], "is empty"),
        (["x.csv", "--sql", "DROP TABLE events"], "read-only"),
        (["x.csv", "--sql", "EXPLAIN FROM events"], "not a query"),
        (["x.csv", "--sql", "FROM nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_exported_is_refused(mp, tmp_path, monkeypatch, arguments, reason):
    """With the reason, and without a file."""
    monkeypatch.chdir(tmp_path)
    result = mp("export", "csv", *arguments)
    assert ExitCode.USAGE == result.exit_code
    assert reason in " ".join(result.stderr.split())
    assert [] == list(tmp_path.iterdir())


def test_times_of_csv_have_one_format(mp):
    """With six digits of a second, as pandas requires of a whole column."""
    query = "SELECT TIMESTAMP '2026-01-01' + INTERVAL (range * 500) MILLISECOND AS t FROM range(3)"
    text = mp("export", "csv", "-", "--sql", query).stdout
    times = [
        "2026-01-01 00:00:00.000000",
        "2026-01-01 00:00:00.500000",
        "2026-01-01 00:00:01.000000",
    ]
    assert ["t", *times] == text.splitlines()
    pandas = pytest.importorskip("pandas")
    assert 3 == pandas.to_datetime(pandas.read_csv(io.StringIO(text)).t).nunique()


LIMITED = """
import resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from mixpanel.cli.main import run
run()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_full_disk_is_named_as_the_target(mp, tmp_path, kind):
    """Not a temporary name beside it, which is gone."""
    db = mp("inspect", "info", "--jq", ".path").stdout.strip().strip('"')
    path = tmp_path / f"big.{kind}"
    command = [sys.executable, "-c", LIMITED, "export", kind, str(path)]
    query = "SELECT uuid() AS id FROM range(100000)"
    run = subprocess.run(
        [*command, "--sql", query, "--db", db], env={**os.environ}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (ExitCode.ERROR, "") == (run.returncode, run.stdout)
    reason = "File too large: files are limited to 100,000 bytes (ulimit -f), and it needs more"
    assert f"mp: cannot write {path}: {reason}\n" == run.stderr
    assert [] == list(tmp_path.iterdir())
