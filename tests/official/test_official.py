"""Programs written for the official client see no other differences than those listed here.

docs/moving-over.md explains them to users.
"""

import json
import math
import os
import subprocess
import sys
from numbers import Number
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import peers
from tests.effort import cases
from tests.official.calls import TAGS

FOLDER = Path(__file__).parent
OFFICIAL = peers.python("official")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not OFFICIAL.exists(), reason="python -m tests.peers official makes it"),
]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(peers.ROOT)}


# ---- names, signatures and classes --------------------------------------------------------------

DIFFERENT = {
    # None stands for the host of the region, by default the official host.
    "mixpanel.Consumer: api_host",
    "mixpanel.BufferedConsumer: api_host",
    # It has the name that the standard library gives it, `o`.
    "mixpanel.DatetimeSerializer.default: obj",
}


def surface(*command):
    done = subprocess.run(
        [*command, FOLDER / "surface.py"], capture_output=True, check=True, env=ENVIRONMENT
    )
    return json.loads(done.stdout)


def test_each_official_name_is_here_with_its_signature_and_bases():
    """In the same modules; parameters have the same names, order and defaults."""
    theirs, ours = surface(OFFICIAL, "-I"), surface(sys.executable)
    differences = set()
    for module, names in theirs.items():
        for name, expected in names.items():
            if name not in ours[module]:
                differences.add(f"{module}.{name} is missing")
            else:
                differences |= set(different(f"{module}.{name}", expected, ours[module][name]))
    assert sum(map(len, theirs.values())) > 40
    assert differences == DIFFERENT


def different(name, expected, found):
    """Yield the differences of one class or function."""
    if "parameters" in expected:
        yield from different_parameters(name, expected["parameters"], found["parameters"])
    if "bases" not in expected:
        return
    if not set(expected["bases"]) <= set(found["bases"]):
        yield f"{name}: bases"
    is_definition = "_Definition" in found["bases"]
    if is_definition:  # more of their fields may be left out
        expected["init"] = [[field, None] for field, _ in expected["init"]]
    yield from different_parameters(name, expected["init"], found["init"])
    for member, of_theirs in expected["members"].items():
        if member not in found["members"]:
            if not is_definition:
                yield f"{name}.{member}"
            continue
        of_ours = found["members"][member]
        if of_theirs and of_ours and not member.endswith("exit__"):
            assert of_theirs[0] == of_ours[0], f"{name}.{member} is async in one only"
            yield from different_parameters(f"{name}.{member}", of_theirs[1], of_ours[1])


def different_parameters(name, expected, found):
    for at, (parameter, default) in enumerate(expected or []):
        if at >= len(found) or found[at][0] != parameter or found[at][1] != default:
            yield f"{name}: {parameter}"


# ---- the same calls -----------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8).filter(
    lambda text: text not in TAGS
)
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from(["$nan", "$inf"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
RESERVED = st.sampled_from(["token", "time", "$insert_id", "distinct_id", "mp_lib", "$ip"])
PROPERTIES = st.dictionaries(TEXT, VALUES, max_size=4)
SPECIAL = st.dictionaries(RESERVED, st.just("own"), max_size=2)
GIVEN = st.builds(lambda a, b: {**a, **b}, PROPERTIES, SPECIAL)
ODD = st.sampled_from([[], "text", 5, True, ["a"]])
IDS = TEXT | st.none() | st.integers(0, 99) | st.sampled_from([17.0, True, "$nan"])
TIMES = st.integers(1_700_000_000, 1_760_000_000)
KEYS = st.none() | st.sampled_from(["key", ["key", "secret"]])
META = st.none() | st.dictionaries(TEXT.filter(bool), VALUES, max_size=2) | st.just({"$ip": 0})
CONSUMERS = st.sampled_from(["Kept", "Consumer", "BufferedConsumer"])
NAMES = TEXT | st.none() | st.just(5)

TRACKING = {
    "track": (IDS, NAMES, st.none() | GIVEN | ODD, META),
    "import_data": (st.none() | TEXT, IDS, NAMES, TIMES, st.none() | GIVEN | ODD, META),
    "merge": (st.none() | TEXT, TEXT, TEXT, META),
    **{
        f"people_{name}": (IDS, GIVEN, META)
        for name in ("set", "set_once", "increment", "append", "union", "remove")
    },
    "people_unset": (IDS, st.lists(TEXT, max_size=3), META),
    "people_delete": (IDS, META),
    "people_track_charge": (IDS, NUMBERS, st.none() | GIVEN, META),
    "people_clear_charges": (IDS, META),
    "people_update": (GIVEN, META),
    **{
        f"group_{name}": (TEXT, IDS, GIVEN, META) for name in ("set", "set_once", "union", "remove")
    },
    "group_unset": (TEXT, IDS, st.lists(TEXT, max_size=3), META),
    "group_delete": (TEXT, IDS, META),
    "group_update": (GIVEN, META),
}
ENDPOINTS = st.sampled_from(["events", "people", "groups", "imports", "other", ""])
JSON_TEXTS = st.sampled_from(['{"event":"E","properties":{}}', '[{"event":"A"},{"event":"B"}]'])
CALLS = st.one_of(
    *[
        st.tuples(CONSUMERS, st.just(name), st.tuples(*arguments), st.just({}))
        for name, arguments in TRACKING.items()
    ],
    st.tuples(
        st.sampled_from(["Consumer", "BufferedConsumer"]),
        st.just("send"),
        st.tuples(ENDPOINTS, JSON_TEXTS),
        st.just({}),
    ),
    st.tuples(
        CONSUMERS,
        st.just("track"),
        st.just(()),
        st.fixed_dictionaries({"distinct_id": TEXT, "event_name": TEXT, "properties": GIVEN}),
    ),
)


class Client:
    """One of the two packages, in a process of its own."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [*command, FOLDER / "calls.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip

    def outcome(self, call):
        print(json.dumps(call), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def clients():
    both = Client(OFFICIAL, "-I"), Client(sys.executable)
    yield both
    for client in both:
        client.close()


@settings(max_examples=cases(300, 5000))
@given(call=CALLS)
def test_the_same_call_sends_the_same_messages(clients, call):
    """It returns or raises the same, and a sink cannot tell which client made it."""
    theirs, ours = (client.outcome(call) for client in clients)
    assert ours == expected(call, theirs)


def expected(call, theirs):
    """Return the official outcome, with each listed difference applied."""
    _, method, arguments, _ = call
    result, messages = theirs["result"], theirs["messages"]
    if not takes(method, arguments):
        # A call that makes no message raises ValidationError here. The official client raises
        # other errors, or sends what Mixpanel drops.
        return {"result": ["raised", "MixpanelException"], "messages": []}
    if call[0] == "BufferedConsumer" and method == "send" and arguments[1][0] == "[":
        # The official buffer wraps the array into another one, which Mixpanel refuses.
        messages = [[path, each] for path, array in messages for each in array]
    return {
        "result": result,
        "messages": [[path, converted(message), *more] for path, message, *more in messages],
    }


def takes(method, arguments):
    """Return True for arguments of the types that the method is documented to take."""
    if method not in ("track", "import_data") or not arguments:
        return True
    at = {"track": 1, "import_data": 2}[method]
    name, properties = arguments[at], arguments[4 if method == "import_data" else 2]
    if method == "import_data" and properties == []:
        properties = None
    return isinstance(name, str) and (properties is None or isinstance(properties, dict))


def converted(message):
    """Return a message as it is sent here: ids are text, and what is not finite is null."""
    message = finite(message)
    for part in (message, message.get("properties", {})):
        for name in ("distinct_id", "$distinct_id", "$group_id"):
            if isinstance(part, dict) and name in part:
                part[name] = id_text(part[name])
    return message


def id_text(value):
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, Number) else value


def finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list) else value
