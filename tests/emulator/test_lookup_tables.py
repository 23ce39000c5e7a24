"""Lookup tables: listed and replaced by the API, created by the emulator."""

import gzip

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixpanel.emulator import Emulator
from mixpanel.emulator._rules.lookup_tables import read_table

ACCOUNT = ("robot", "s3cret")
PATH = "/lookup-tables/skus?project_id=42"


@pytest.fixture
def emu():
    """An emulator with one empty table."""
    with Emulator(now=lambda: 1_764_000_000) as emulator:
        emulator.create_lookup_table("skus", "SKUs")
        yield emulator


@pytest.fixture
def http(emu):
    """A client with a service account."""
    headers = {"content-type": "text/csv"}
    with httpx.Client(base_url=emu.url, auth=ACCOUNT, headers=headers) as client:
        yield client


def test_tables_are_listed(http):
    """Ids and names."""
    answer = http.get("/lookup-tables?project_id=42")
    results = [{"id": "skus", "name": "SKUs"}]
    assert {"code": 200, "status": "OK", "results": results} == answer.json()


def test_a_table_is_replaced_as_a_whole(emu, http):
    """Rows that are not sent again are gone; gzip is accepted."""
    http.put(PATH, content="sku,price\na,1\nb,2\n")
    body = gzip.compress(b"sku,price\nb,3\n")
    answer = http.put(PATH, content=body, headers={"content-encoding": "gzip"})
    assert {"code": 200, "status": "OK"} == answer.json()
    assert {"skus": {"name": "SKUs", "rows": [{"sku": "b", "price": 3}]}} == emu.lookup_tables


def test_an_invalid_table_changes_nothing(emu, http):
    """400 lists at most ten rows."""
    http.put(PATH, content="sku\na\n")
    answer = http.put(PATH, content="sku\n" + "a\n" * 20)
    failed = answer.json()["failed_records"]
    assert (400, 10, 1) == (answer.status_code, len(failed), failed[0]["index"])
    assert [{"sku": "a"}] == emu.lookup_tables["skus"]["rows"]


def test_an_unknown_table_is_404(http):
    """They can only be created in the web interface."""
    answer = http.put("/lookup-tables/nope?project_id=42", content="a\n1\n")
    assert (404, 404) == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("auth", [("T", ""), ("robot", "wrong")])
def test_tables_accept_service_accounts_and_secrets(auth):
    """A project token is not sufficient."""
    options = {"tokens": "T", "service_accounts": {"robot": "s3cret"}}
    with Emulator(**options) as emulator:
        assert 401 == httpx.put(emulator.url + PATH, auth=auth, content="a").status_code
        assert 404 == httpx.put(emulator.url + PATH, auth=ACCOUNT, content="a").status_code


@pytest.mark.slow
def test_a_hundred_replacements_per_day_are_accepted(http):
    """Then it is 429."""
    statuses = [http.put(PATH, content="sku\na\n").status_code for _ in range(101)]
    assert [200] * 100 + [429] == statuses


def test_text_that_is_not_utf_8_is_refused(http):
    """400, with the reason."""
    answer = http.put(PATH, content=b"sku\n\xff\n")
    assert (400, "Bad Request") == (answer.status_code, answer.json()["status"])


def test_fields_have_documented_types():
    """Numbers, booleans in any case, lists of strings; nothing for empty; else text."""
    text = (
        "key,int,float,yes,list,empty,text,date\r\n"
        'a,1,-2.5e3,TRUE,"[""x"",""y""]",,"two\nlines, 1",2026-01-02T03:04:05Z\r\n'
    )
    row = {"key": "a", "int": 1, "float": -2500.0, "yes": True, "list": ["x", "y"]}
    row |= {"text": "two\nlines, 1", "date": "2026-01-02T03:04:05Z"}
    assert ([row], []) == read_table(text)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "a,a\n1,2\n", "a,\n1,2\n", "a,b\n1\n", "a\n1\n1\n", "a,b\n,1\n", 'a\n"x'],
)
def test_an_invalid_table_is_rejected(text):
    """No header, names or keys twice, rows of another length, unclosed quotes."""
    assert read_table(text)[1]


@pytest.mark.slow
@given(st.text())
def test_any_text_is_parsed_or_rejected(text):
    """Nothing raises."""
    rows, failed = read_table(text)
    assert isinstance(rows, list)
    assert len(failed) <= 10
