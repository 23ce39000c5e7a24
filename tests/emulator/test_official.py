"""The official SDK, in its own environment, sends to the emulator."""

import subprocess

import pytest

from mixpanel.emulator import Emulator, Fault
from tests import peers

PYTHON = peers.python("official")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(), reason="python -m tests.peers official makes its environment"
    ),
]
SETUP = """
import sys
from mixpanel import BufferedConsumer, Consumer, Mixpanel, MixpanelException
from mixpanel import ServiceAccountCredentials

url = sys.argv[1]
urls = dict(
    events_url=url + "/track", people_url=url + "/engage",
    groups_url=url + "/groups", import_url=url + "/import",
)
account = ServiceAccountCredentials("robot", "s3cret", "42")
mp = Mixpanel("T", consumer=Consumer(**urls, credentials=account))
"""


@pytest.fixture
def emu():
    """An emulator that knows one token and one service account."""
    with Emulator(tokens="T", service_accounts={"robot": "s3cret"}) as emulator:
        yield emulator


def run(emulator, script):
    """Run a script with the official SDK and return what it prints."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", SETUP + script, emulator.url],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_events_of_the_official_sdk_arrive(emu):
    """With their own key fields, once each."""
    run(emu, "mp.track('u1', 'Order Paid', {'plan': 'team'})")
    (event,) = emu.events("Order Paid")
    properties = event["properties"]
    assert ("u1", "team", "python") == (
        properties["distinct_id"],
        properties["plan"],
        properties["mp_lib"],
    )


def test_batches_of_the_official_sdk_arrive(emu):
    """Fifty per request, the rest at flush."""
    run(
        emu,
        "consumer = BufferedConsumer(**urls)\n"
        "mp = Mixpanel('T', consumer=consumer)\n"
        "for n in range(120): mp.track('u1', 'Order Paid', {'n': n})\n"
        "consumer.flush()\n",
    )
    assert list(range(120)) == [each["properties"]["n"] for each in emu.events()]
    assert [50, 50, 20] == [len(each.records) for each in emu.requests("/track")]


def test_profile_updates_of_the_official_sdk_arrive(emu):
    """Users and groups, every operation."""
    run(
        emu,
        "mp.people_set('u1', {'plan': 'free', 'seats': 1})\n"
        "mp.people_set_once('u1', {'plan': 'team'})\n"
        "mp.people_increment('u1', {'seats': 2})\n"
        "mp.people_append('u1', {'visits': 'a'})\n"
        "mp.people_union('u1', {'visits': ['a', 'b']})\n"
        "mp.people_remove('u1', {'visits': 'a'})\n"
        "mp.people_unset('u1', ['plan'])\n"
        "mp.people_track_charge('u1', 9)\n"
        "mp.people_set('u2', {'a': 1})\n"
        "mp.people_delete('u2')\n"
        "mp.group_set('company', 'acme', {'seats': 5})\n"
        "mp.group_union('company', 'acme', {'tags': ['x']})\n",
    )
    assert {"u1": {"seats": 3, "visits": ["b"], "$transactions": [{"$amount": 9}]}} == (
        emu.profiles()
    )
    assert {("company", "acme"): {"seats": 5, "tags": ["x"]}} == emu.groups()


def test_imports_and_merges_of_the_official_sdk_arrive(emu):
    """With a service account, form-encoded as it sends them."""
    run(
        emu,
        "mp.import_data(None, 'u1', 'Signed Up', 1700000000)\n"
        "mp.merge(None, 'u1', 'u2')\n"
        "mp.people_set('u2', {'a': 1})\n",
    )
    assert ["Signed Up", "$merge"] == [each["event"] for each in emu.events()]
    assert {"u1": {"a": 1}} == emu.profiles()


def test_aliases_of_the_official_sdk_arrive(emu):
    """Through a custom consumer: its `alias` always sends to the default host."""
    run(
        emu,
        "import json\n"
        "properties = {'distinct_id': 'u1', 'alias': 'a1', 'token': 'T'}\n"
        "event = json.dumps({'event': '$create_alias', 'properties': properties})\n"
        "Consumer(**urls).send('events', event)\n"
        "mp.people_set('a1', {'a': 1})\n",
    )
    assert {"u1": {"a": 1}} == emu.profiles()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mp.track('u1', 'Old', {'time': 1})", "five days"),
        ("Mixpanel('other', Consumer(**urls)).track('u1', 'A')", "token"),
        ("Mixpanel('T', Consumer(**urls)).import_data(None, 'u1', 'A', 1700000000)", "credentials"),
        ("mp.import_data(None, 'u1', 'A', 1)", "failed validation"),
        ("mp.people_increment('u1', {'a': 'b'})", "number"),
    ],
)
def test_the_official_sdk_raises_on_refusals(emu, script, words):
    """Each as its own exception, with the emulator's reason."""
    output = run(emu, f"try:\n    {script}\nexcept MixpanelException as error:\n    print(error)\n")
    assert words in output


def test_the_official_sdk_raises_on_faults(emu):
    """A portal's page is not a valid response."""
    emu.play(Fault.html())
    script = "try: mp.track('u1', 'A')\nexcept MixpanelException as error: print(error)\n"
    assert "Cannot interpret" in run(emu, script)
