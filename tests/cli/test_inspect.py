"""`mp inspect`: what is in the local database, and how to be rid of it."""

import csv
import io
import json
import shutil

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from tests.cli.cli_data import FIRST, LAST, NAMES, fetched


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Keep a database of three days of orders."""
    folder = tmp_path_factory.mktemp("inspect")
    return folder / "shop.db", fetched(folder)


@pytest.fixture
def mp(shop):
    """Look into that database, without any credentials."""
    return shop[1]


@pytest.fixture
def copy(shop, tmp_path):
    """Make a database that may be changed."""
    path = tmp_path / "copy.db"
    shutil.copy(shop[0], path)
    return path


def output_of(mp, *arguments):
    """Return the JSON that a command writes."""
    result = mp("inspect", *arguments)
    assert (ExitCode.OK, "") == (result.exit_code, result.stderr)
    return json.loads(result.stdout)


@pytest.mark.slow
def test_info_shows_the_database(mp, shop):
    """The project is known only if an account was used to find it."""
    result = output_of(mp, "info")
    assert str(shop[0]) == result["path"]
    assert ["events", "profiles"] == [one["name"] for one in result["tables"]]
    assert result["size_mb"] > 0
    assert result["project_id"] is result["source"] is None
    people = mp("inspect", "info", "-f", "table").stdout
    assert "events, profiles" in people


@pytest.mark.slow
def test_info_shows_the_project_of_the_account(mp, shop, tmp_path):
    """And where the credentials came from."""
    home = tmp_path / ".mp" / "data"
    home.mkdir(parents=True)
    shutil.copy(shop[0], home / "7.db")
    account = {"MP_USERNAME": "r", "MP_SECRET": "x", "MP_PROJECT_ID": "7", "HOME": str(tmp_path)}
    result = json.loads(mp("inspect", "info", MP_DB=None, **account).stdout)
    assert ("7", "us", "environment") == (result["project_id"], result["region"], result["source"])


@pytest.mark.slow
def test_tables_show_their_days_and_filters(mp):
    """In full as JSON, as text in a table."""
    events, profiles = output_of(mp, "tables")
    assert ("events", 72, FIRST, LAST, []) == (
        events["type"], events["row_count"], events["from_date"], events["to_date"], events["gaps"]
    )  # fmt: skip
    assert ("profiles", 5, "complete") == (
        profiles["type"], profiles["row_count"], profiles["state"]
    )  # fmt: skip
    assert "events\nprofiles\n" == mp("inspect", "tables", "-f", "plain").stdout
    header, first, _ = mp("inspect", "tables", "-f", "table").stdout.splitlines()
    assert header.startswith("name ")
    assert ["none", "complete"] == first.split()[-2:]


@pytest.mark.slow
def test_schema_shows_the_columns(mp):
    """With `--sample`, a value of each."""
    result = output_of(mp, "schema", "events")
    names = ["event_name", "event_time", "distinct_id", "insert_id", "properties"]
    assert names == [one["name"] for one in result["columns"]]
    sampled = output_of(mp, "schema", "events", "--sample")["columns"]
    assert sampled[0]["sample"] in NAMES
    assert {"plan", "amount"} <= set(sampled[-1]["sample"])
    assert 6 == len(mp("inspect", "schema", "events", "-f", "table").stdout.splitlines())


@pytest.mark.slow
def test_a_table_is_named_by_argument_or_option(mp):
    """Both may be given if they agree."""
    assert output_of(mp, "schema", "events") == output_of(mp, "schema", "-t", "events")
    assert output_of(mp, "schema", "events") == output_of(
        mp, "schema", "events", "--table", "events"
    )
    for command in ("schema", "sample", "summarize", "breakdown", "keys"):
        assert ExitCode.USAGE == mp("inspect", command).exit_code, command
        both = mp("inspect", command, "events", "-t", "profiles")
        assert ExitCode.USAGE == both.exit_code, command
        none = mp("inspect", command, "nope")
        assert ExitCode.NOT_FOUND == none.exit_code, command
        assert "there are: events, profiles\n" in none.stderr


@pytest.mark.slow
def test_a_sample_has_properties_as_objects(mp):
    """Not as JSON text."""
    rows = output_of(mp, "sample", "events", "-n", "3")
    assert 3 == len(rows)
    assert all(row["properties"]["plan"] in ("team", "solo") for row in rows)
    assert 10 == len(output_of(mp, "sample", "events"))
    assert ExitCode.USAGE == mp("inspect", "sample", "events", "-n", "0").exit_code


@pytest.mark.slow
def test_summarize_describes_each_column(mp):
    """CSV has a row for each, as the table has."""
    result = output_of(mp, "summarize", "events")
    assert (72, 5) == (result["row_count"], len(result["columns"]))
    text = mp("inspect", "summarize", "events", "-f", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert ["Order Paid", "Paid, late"] == [rows[0]["min"], rows[0]["max"]]


@pytest.mark.slow
def test_breakdown_counts_events_and_users(mp):
    """By event name."""
    result = output_of(mp, "breakdown", "events")
    assert (72, 5) == (result["total_events"], result["total_users"])
    assert {(name, 24, 5) for name in NAMES} == {
        (one["event_name"], one["count"], one["unique_users"]) for one in result["events"]
    }
    assert ExitCode.USAGE == mp("inspect", "breakdown", "profiles").exit_code
    table = mp("inspect", "breakdown", "events", "-f", "table", COLUMNS="80").stdout
    assert "2026-01-01 00:00" in table
    assert not {"T00:00:00", "+00:00"} & set(table.split())
    assert 1 + len(NAMES) == len(table.splitlines())  # a row fits into a line
    assert "T00:00:00+00:00" in mp("inspect", "breakdown", "events", "-f", "csv").stdout


@pytest.mark.slow
def test_a_typed_view_has_a_column_for_each_property(mp, copy):
    """Its name is printed, and it can be created again."""
    for _ in range(2):
        result = mp("inspect", "typed-view", "events", "--db", copy)
        assert (ExitCode.OK, "") == (result.exit_code, result.stdout)
        assert f"created events_typed in {copy}\n" == result.stderr
    rows = mp("query", "sql", "SELECT sum(amount) AS n FROM events_typed", "--db", copy)
    assert [{"n": sum(range(72))}] == json.loads(rows.stdout)
    assert ExitCode.NOT_FOUND == mp("inspect", "typed-view", "nothing", "--db", copy).exit_code
    assert "TABLE is missing" in mp("inspect", "typed-view", "--db", copy).stderr


@pytest.mark.slow
def test_a_typed_table_shows_its_columns(mp, copy):
    """A type can be stated; a wrong one is refused before anything changes."""
    arguments = ("inspect", "typed-table", "events", "--db", copy, "--type")
    wrong = mp(*arguments, "amount=MONEY")
    assert (ExitCode.USAGE, True) == (wrong.exit_code, "is not a type for" in wrong.stderr)
    assert "has no =" in mp(*arguments, "amount").stderr
    result = mp(*arguments, "amount=DECIMAL(18,2)")
    assert ExitCode.OK == result.exit_code
    types = {column["name"]: column["type"] for column in json.loads(result.stdout)["columns"]}
    assert ("DECIMAL(18,2)", "VARCHAR") == (types["amount"], types["plan"])
    assert "created events_typed (72 rows)" in result.stderr


@pytest.mark.slow
def test_keys_are_the_names_of_properties(mp):
    """Sorted, one a line in plain."""
    keys = mp("inspect", "keys", "events", "-f", "plain").stdout.split()
    assert {"amount", "plan"} <= set(keys)
    assert sorted(keys) == keys
    assert keys == output_of(mp, "keys", "-t", "events", "-e", "Paid, late")
    assert [] == output_of(mp, "keys", "events", "--event", "Nothing")


@pytest.mark.slow
def test_column_describes_a_column_or_a_property(mp):
    """Named by argument or by option, in any mix."""
    result = output_of(mp, "column", "events", "properties->>'$.plan'")
    assert [["solo", 36], ["team", 36]] == result["top_values"]
    result = output_of(mp, "column", "events", "event_name", "--top", "1")
    assert 1 == len(result["top_values"])
    assert result == output_of(mp, "column", "-t", "events", "-c", "event_name", "--top", "1")
    assert result == output_of(mp, "column", "-t", "events", "event_name", "--top", "1")
    assert result == output_of(mp, "column", "events", "-c", "event_name", "--top", "1")
    assert ExitCode.USAGE == mp("inspect", "column", "events").exit_code
    wrong = mp("inspect", "column", "events", "plan; DROP TABLE events")
    assert ExitCode.USAGE == wrong.exit_code
    assert "properties->>'$.plan'" in wrong.stderr


# Dropping


def names(mp, db):
    """Return the tables that are there."""
    return mp("inspect", "tables", "-f", "plain", "--db", db).stdout.split()


@pytest.mark.slow
def test_drop_asks_for_confirmation(mp, copy):
    """The question names the tables; without a terminal the error names --force."""
    question = "Drop events (72 rows) from "
    result = mp("inspect", "drop", "events", "--db", copy, given="n\n")
    assert ExitCode.ERROR == result.exit_code
    assert question in result.stderr
    assert result.stderr.endswith("Cancelled\n")
    nobody = mp("inspect", "drop", "events", "--db", copy, given="")
    assert ExitCode.USAGE == nobody.exit_code
    assert question in nobody.stderr
    assert "confirmation required, but stdin is not a terminal: add --force" in nobody.stderr
    assert ["events", "profiles"] == names(mp, copy)
    result = mp("inspect", "drop", "events", "--db", copy, given="y\n")
    assert ExitCode.OK == result.exit_code
    assert f"dropped events from {copy}\n" in result.stderr
    assert ["profiles"] == names(mp, copy)


@pytest.mark.slow
def test_drop_drops_all_tables_or_none(mp, copy):
    """One wrong name keeps the others; `--force` skips the question."""
    wrong = mp("inspect", "drop", "events", "nope", "--force", "--db", copy)
    assert ExitCode.NOT_FOUND == wrong.exit_code
    assert ["events", "profiles"] == names(mp, copy)
    both = mp("inspect", "drop", "events", "-t", "profiles", "--force", "--db", copy)
    assert ExitCode.OK == both.exit_code
    assert [] == names(mp, copy)
    assert ExitCode.USAGE == mp("inspect", "drop", "--force", "--db", copy).exit_code


@pytest.mark.slow
def test_drop_all_may_be_limited_to_a_type(mp, copy):
    """A second time there is nothing to drop, which is no error."""
    refused = mp("inspect", "drop-all", "--db", copy, given="n\n")
    assert ExitCode.ERROR == refused.exit_code
    assert "Drop events (72 rows), profiles (5 rows) from " in refused.stderr
    for _ in range(2):
        result = mp("inspect", "drop-all", "-t", "events", "--force", "--db", copy)
        assert ExitCode.OK == result.exit_code
        assert ["profiles"] == names(mp, copy)
    assert "nothing to drop" in result.stderr
    assert ExitCode.OK == mp("inspect", "drop-all", "--force", "--db", copy).exit_code
    empty = mp("inspect", "tables", "--db", copy)
    assert ("[]\n", "no tables yet: fetch some with mp fetch events\n") == (
        empty.stdout,
        empty.stderr,
    )


def test_drop_creates_no_database(mp, tmp_path):
    """A missing one is not found."""
    for command in (["drop", "events"], ["drop-all"]):
        result = mp("inspect", *command, "--force", "--db", tmp_path / "none.db")
        assert ExitCode.NOT_FOUND == result.exit_code
    assert [] == list(tmp_path.iterdir())
