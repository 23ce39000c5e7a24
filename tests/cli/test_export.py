"""`mp export`: tables as files that other tools read."""

import csv
import gzip
import io
import json

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


def test_a_missing_table_or_database_is_not_found(mp, tmp_path):
    """And no file is left behind."""
    for kind in ("parquet", "csv"):
        path = tmp_path / f"nope.{kind}"
        assert ExitCode.NOT_FOUND == mp("export", kind, "nope", path).exit_code
        absent = mp("export", kind, "events", path, "--db", tmp_path / "none.db")
        assert ExitCode.NOT_FOUND == absent.exit_code
    assert ExitCode.NOT_FOUND == mp("export", "csv", "nope", "-").exit_code
    assert [] == list(tmp_path.iterdir())
