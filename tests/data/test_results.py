"""Results: as JSON, as tables, as text, in notebooks."""

import json
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from mixpanel.data.exceptions import ConfigError
from mixpanel.data.results import (
    ColumnStatsResult,
    EventBreakdownResult,
    EventStats,
    FetchPlan,
    FetchResult,
    SQLResult,
    TableInfo,
    WorkspaceInfo,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FETCHED = FetchResult(
    "events", 5, "events", 1.5, ("2026-01-01", "2026-01-02"), NOON, chunks=2
)  # fmt: skip


def test_every_value_can_be_written_as_json():
    """Including all types that DuckDB returns."""
    row = (None, True, 2**70, 1.5, float("nan"), Decimal("1.25"), NOON, date(2026, 1, 1), b"x")
    row += ({"a": [NOON]}, {1}, Path("x"))
    found = SQLResult([f"c{n}" for n in range(len(row))], [row])
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [None, True, 2**70, 1.5, None, 1.25] == written["rows"][0][:6]
    assert ["2026-01-01T12:00:00+00:00", "2026-01-01"] == written["rows"][0][6:8]
    assert (1, False) == (written["row_count"], written["truncated"])


def test_sql_results_are_sequences_of_rows():
    """As tuples, or as dicts by `to_dicts`."""
    found = SQLResult(["a", "b"], [(1, "x"), (2, "y")])
    assert (2, [(1, "x"), (2, "y")]) == (len(found), list(found))
    assert [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}] == found.to_dicts() == found.to_table_dict()


def test_a_fetch_result_has_the_names_of_mixpanel_data():
    """Its results of parallel fetches are one type with ours; a finished fetch has no failures."""
    assert (5, 2, 2) == (
        FETCHED.total_rows, FETCHED.successful_batches, FETCHED.successful_pages
    )  # fmt: skip
    assert (False, 0, 0) == (FETCHED.has_failures, FETCHED.failed_batches, FETCHED.failed_pages)
    assert ((), ()) == (FETCHED.failed_date_ranges, FETCHED.failed_page_indices)
    assert not {"total_rows", "failed_date_ranges"} & FETCHED.to_dict().keys()


def test_results_are_frozen_and_compare_equal():
    """Two equal results stay equal when the DataFrame of one was made."""
    with pytest.raises(FrozenInstanceError):
        FETCHED.rows = 6
    assert SQLResult(["a"], [(1,)]) == SQLResult(["a"], [(1,)])


def test_the_repr_shows_fields_and_rows():
    """Long ones are cut, with the number of rows that are left out."""
    found = SQLResult(["n", "text"], [(n, "x" * 100) for n in range(12)])
    lines = repr(found).splitlines()
    assert "SQLResult(truncated=False, row_count=12)" == lines[0]
    assert (1 + 1 + 10 + 1, "… 2 more rows") == (len(lines), lines[-1])
    assert max(map(len, lines)) < 60
    assert repr(FETCHED).startswith("FetchResult(table='events', rows=5, type='events'")
    info = TableInfo("events", "events", 1, NOON)
    shown = repr(WorkspaceInfo(None, "7", "us", None, [info], 0.0, None))
    assert "project_id='7'" in shown
    assert "events" in shown.splitlines()[-1]
    plan = FetchPlan("e", date(2026, 1, 1), date(2026, 1, 1), (), 0, 0, 60, 1)
    assert "calls_left=60" in repr(plan)


def test_notebooks_show_an_escaped_table():
    """Names and values cannot contain HTML."""
    found = SQLResult(["<b>"], [("<script>",), (None,)])._repr_html_()
    assert "<th>&lt;b&gt;</th>" in found
    assert "<td>&lt;script&gt;</td>" in found
    assert "<script>" not in found
    assert "<th>a</th>" in SQLResult(["a"], [])._repr_html_()


def test_rows_are_those_of_the_main_list_of_a_result():
    """Those of a breakdown are its events, those of a column its values."""
    stats = EventStats("E", 1, 1, NOON, NOON, 100.0)
    assert ["E"] == [
        row["event_name"] for row in EventBreakdownResult("t", 1, 1, None, [stats]).to_table_dict()
    ]
    column = ColumnStatsResult(
        "t", "c", "VARCHAR", 1, 0, 0.0, 1, 100.0, [("x", 1)], None, None, None, None
    )
    assert [{"value": "x", "count": 1}] == column.to_table_dict()


def test_data_frames_are_made_once():
    """On first use."""
    pytest.importorskip("pandas")
    found = SQLResult(["a", "b"], [(1, "x")])
    assert found.df is found.df
    assert [{"a": 1, "b": "x"}] == found.df.to_dict("records")
    assert ["a"] == list(SQLResult(["a"], []).df.columns)


def test_without_pandas_the_error_names_the_extra_to_install(monkeypatch):
    """Only `.df` needs pandas."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install 'mixpanel-async\[pandas\]'"):
        _ = SQLResult(["a"], [(1,)]).df


class SlicedOnly(list):
    """Rows that cannot be walked through."""

    def __iter__(self):
        raise AssertionError


def test_the_repr_of_a_large_result_formats_only_what_it_shows():
    """So that a million rows are shown at once."""
    result = SQLResult(["n", "n"], SlicedOnly([(1, 2)] * 1000))
    first, header, *rows, more = repr(result).splitlines()
    assert "SQLResult(truncated=False, row_count=1000)" == first
    assert ("n", 10, "… 990 more rows") == (header, len(rows), more)
    assert "… 950 more rows" in result._repr_html_()
