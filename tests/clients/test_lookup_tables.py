"""List and replace lookup tables."""

import pytest

from mixpanel import (
    AsyncMixpanel,
    ConfigurationError,
    Mixpanel,
    RejectedError,
    RetryPolicy,
    ServerError,
    ServiceAccountCredentials,
)
from mixpanel.emulator import Fault

ACCOUNT = ServiceAccountCredentials("user", "secret", "42")
ID = "5ca1ab1e-0000-4000-8000-000000000001"


@pytest.fixture
def mp(emu):
    emu.create_lookup_table(ID, "Products")
    with Mixpanel("t", credentials=ACCOUNT, base_url=emu.url) as client:
        yield client


def test_tables_are_listed(mp):
    """By id and name."""
    [table] = mp.lookup_tables()
    assert (table.id, table.name) == (ID, "Products")


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [
        "sku,name\r\nA1,Tea\r\n",
        b"sku,name\r\nA1,Tea\r\n",
        [{"sku": "A1", "name": "Tea"}],
    ],
)
def test_a_table_is_replaced_as_a_whole(mp, emu, rows):
    """With CSV text, bytes, or rows; a 503 in between is retried."""
    emu.play(Fault.status(503))
    mp.replace_lookup_table(ID, rows)
    assert emu.lookup_tables[ID]["rows"] == [{"sku": "A1", "name": "Tea"}]


def test_invalid_rows_are_listed(mp):
    """In `rejected_records`."""
    with pytest.raises(RejectedError) as raised:
        mp.replace_lookup_table(ID, "sku,name\r\nA1,Tea\r\nA1,Coffee\r\n")
    assert raised.value.rejected_records


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "status": "OK", "failed_records": [{"index": 1, "message": "twice"}]},
        {"code": 400, "error": "the rows are not valid", "status": 0},
        {"code": 200, "status": "OK", "error": "not all rows were taken"},
    ],
)
def test_a_success_that_reports_a_failure_is_an_error(mp, emu, body):
    """Whatever its status: the caller gets the reason, and the table is not sent again."""
    emu.play(Fault.status(200, body=body))
    with pytest.raises(RejectedError) as raised:
        mp.replace_lookup_table(ID, "sku,name\r\nA1,Tea\r\n")
    assert raised.value.status == 200
    assert len(raised.value.rejected_records) == len(body.get("failed_records", []))


@pytest.mark.slow
@pytest.mark.parametrize("body", ["<html>Welcome</html>", '{"code": 200', "", "[1]"])
def test_a_response_that_is_not_from_mixpanel_is_retried(mp, emu, body, monkeypatch):
    """A captive portal replaces no table; if it stays, the error is typed."""
    monkeypatch.setattr("mixpanel.lookup_tables.RETRY", RetryPolicy(attempts=2, first_wait=0.01))
    emu.play(Fault.status(200, body=body))
    mp.replace_lookup_table(ID, "sku,name\r\nA1,Tea\r\n")
    assert emu.lookup_tables[ID]["rows"] == [{"sku": "A1", "name": "Tea"}]
    emu.play(Fault.status(200, body=body) * 2)
    with pytest.raises(ServerError, match="not from Mixpanel"):
        mp.replace_lookup_table(ID, "sku,name\r\nA1,Tea\r\n")


def test_an_unknown_table_is_an_error(mp):
    """Tables are created in Mixpanel's web interface, not here."""
    with pytest.raises(ServerError, match="404"):
        mp.replace_lookup_table("nope", "a\r\n1\r\n")


@pytest.mark.parametrize("table_id", ["", "../track"])
def test_an_invalid_table_id_is_a_configuration_error(mp, table_id):
    """No path gets into the URL."""
    with pytest.raises(ConfigurationError):
        mp.replace_lookup_table(table_id, "a\r\n1\r\n")


@pytest.mark.anyio
async def test_a_service_account_is_needed(emu, anyio_backend):
    """The error says so."""
    async with AsyncMixpanel("t", base_url=emu.url) as client:
        with pytest.raises(ConfigurationError, match="ServiceAccountCredentials"):
            await client.lookup_tables()
