"""`mp inspect distribution` and its kin: reports of a fetched table, without a call."""

import json
import shlex

import pytest

from mixpanel.cli import local_inspect
from tests.cli.cli_data import DAYS, fetched


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Keep a database of three days of orders, and no server."""
    return fetched(tmp_path_factory.mktemp("local"))


EXAMPLES = [examples for _, _, examples in local_inspect.COMMANDS]


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES, ids=[each.split()[2] for each in EXAMPLES])
@pytest.mark.parametrize("form", ["json", "table", "csv"])
def test_every_example_of_help_runs(shop, line, form):
    """In each format, without credentials."""
    done = shop(*shlex.split(line)[1:], "--format", form)
    assert 0 == done.exit_code
    # The examples are about a month, of which three days were fetched.
    assert "events lacks 2026-01-04 to 2026-01-31, so" in " ".join(done.stderr.split())
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_days_beyond_the_table_are_named_on_stderr(shop, form):
    """Standard output has the report alone."""
    days = ("--from", "2025-12-30", "--to", "2026-01-05", "--format", form)
    done = shop("inspect", "daily", *days)
    assert 0 == done.exit_code
    text = " ".join(done.stderr.split())
    assert "events lacks 2025-12-30 to 2025-12-31, 2026-01-04 to 2026-01-05, so" in text
    assert "lacks" not in done.stdout
    assert "" == shop("inspect", "daily", *DAYS, "--format", form).stderr


@pytest.mark.slow
def test_figures_are_those_of_the_table(shop):
    """Of 72 orders, a third are paid; one of five users has 15 of them."""

    def found(*arguments):
        done = shop("inspect", *arguments, *DAYS, "--format", "json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    values = found("distribution", "Order Paid", "plan")["values"]
    assert {"solo": 12, "team": 12} == {each["value"]: each["count"] for each in values}
    numbers = found(
        "numeric", "--event", "Order Paid", "--property", "amount", "--percentiles", "50"
    )
    assert (24, 0, 69, ["50"]) == (
        numbers["count"], numbers["min"], numbers["max"], [*numbers["percentiles"]],
    )  # fmt: skip
    daily = found("daily", "--events", "Order Paid")["counts"]
    assert [8, 8, 8] == [each["count"] for each in daily]
    engaged = found("engagement", "--buckets", "1,15")
    assert (5, [3, 2]) == (
        engaged["total_users"], [each["user_count"] for each in engaged["buckets"]],
    )  # fmt: skip
    covered = found("coverage", "Order Paid", "--properties", "plan,colour")
    assert [24, 0] == [each["defined_count"] for each in covered["coverage"]]


WRONG = [
    (("distribution", "Order Paid", *DAYS), 3, "PROPERTY is missing"),
    (("distribution", "Order Pade", "plan", *DAYS), 4, "Order Paid"),
    (("numeric", "Order Paid", "amount", "--percentiles", "x", *DAYS), 3, "whole numbers"),
    (("daily", "--from", "2026-01-03", "--to", "2026-01-01"), 3, "--from 2026-01-03"),
    (("daily", "--table", "nothing", *DAYS), 4, "nothing"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code", "text"), WRONG, ids=[each[2] for each in WRONG])
def test_mistakes_are_said(shop, arguments, code, text):
    """With an exit code of their kind."""
    done = shop("inspect", *arguments)
    assert (code, "") == (done.exit_code, done.stdout)
    assert text in done.stderr
