"""Run a client in its environment, compare its answers with ours, and write the table."""

import json
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixpanel.data import Workspace
from tests.vendor_clients.comparison import difference
from tests.vendor_clients.seeds import shop, workspace

FOLDER = Path(__file__).parent
TIMEOUT = 300  # seconds of a whole run
LEAST_ANSWERED = 200
GONE = "410 "  # JQL, which is in maintenance mode at Mixpanel
LEFT_OUT: Mapping[str, str] = {
    "sign_replay": "the emulator holds no session replays",
    "sign_replays": "the emulator holds no session replays",
    "fetch_replay": "the emulator holds no session replays",
    "fetch_replays": "the emulator holds no session replays",
    "stream_replay": "the emulator holds no session replays",
    "analyze_replay": "the emulator holds no session replays",
    "update_anomaly": "the emulator finds no anomalies",
    "bulk_update_anomalies": "the emulator finds no anomalies",
    "import_from_amplitude": "reads from Amplitude",
    "import_from_amplitude_id_mgmt_v3": "reads from Amplitude",
}


# Calls that the emulator refuses with 400, because there is no published answer to agree with.
NOT_COMPUTED = frozenset(
    {
        ("query", "numeric_summary of amount"),
        ("query", "most_frequent of amount"),
        ("query", "first_value of amount"),
        ("query", "where frequency"),
        ("query", "by frequency"),
        ("query", "comparison"),
        ("query_funnel", "totals"),
        ("query_funnel", "reentry"),
        ("query_flow", "exclusions"),
        ("query_flow", "segments"),
    }
)


@dataclass(slots=True)
class Method:
    """What came of the calls of one method."""

    name: str
    requests: int = 0
    calls: int = 0
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    not_computed: list[str] = field(default_factory=list)
    compared: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def answered(self) -> str:
        """Whether its calls succeeded: yes, no, in part; refused as by Mixpanel; no request."""
        if not self.calls:
            return "not called"
        if self.problems:
            return "no" if len(self.problems) == self.calls else "in part"
        if self.refusals:
            return "refused"
        return "yes" if self.requests else "no request"

    @property
    def equal(self) -> str:
        """Whether its answers equal ours, `-` without a comparison."""
        if not self.compared:
            return "-"
        return "no" if self.differences else "yes"

    @property
    def is_good(self) -> bool:
        """Whether all was answered over the wire or rightly refused, and equal if comparable."""
        return self.answered in ("yes", "refused") and self.equal != "no"


@dataclass(slots=True)
class Table:
    """All methods of a client."""

    client: str
    methods: list[Method]
    stopped: list[str]
    least: int

    @property
    def good(self) -> list[Method]:
        """The methods that are answered, and equal where comparable."""
        return [each for each in self.methods if each.is_good]

    @property
    def is_enough(self) -> bool:
        """Whether as many methods are good as promised, and no area of calls ended early."""
        return len(self.good) >= self.least and not self.stopped

    def text(self) -> str:
        """Return the table and the counts, as wide as the terminal."""
        width = max(80, shutil.get_terminal_size((100, 24)).columns)
        names = max(len(each.name) for each in self.methods)
        lines = [self.client, f"{'method':<{names}}  answered    equal  left out, and why"]
        for each in sorted(self.methods, key=lambda one: one.name):
            reasons = [*each.problems, *each.refusals, *each.not_computed, *each.differences]
            if each.name in LEFT_OUT:
                reasons = [LEFT_OUT[each.name]]
            head = f"{each.name:<{names}}  {each.answered:<10}  {each.equal:<5}  "
            why = textwrap.wrap("; ".join(reasons), width - len(head), max_lines=3) or [""]
            lines.append((head + why[0]).rstrip())
            lines += [" " * len(head) + more for more in why[1:]]
        lines += [f"an area ended early: {each}" for each in self.stopped]
        wire = [
            each
            for each in self.methods
            if each.requests or (each.problems and each.name not in LEFT_OUT)
        ]
        compared = [each for each in self.methods if each.compared]
        equal = [each for each in compared if not each.differences]
        calls = sum(each.compared for each in self.methods)
        lines.append(
            f"\n{self.client}: {len(self.good)} of {len(wire)} methods that send requests are"
            f" answered (or refused as by Mixpanel) and equal where comparable; {len(equal)} of"
            f" {len(compared)} methods that"
            f" can be compared are equal, in {calls} calls. {len(self.methods) - len(wire)} more"
            " send nothing."
        )
        return "\n".join(lines)


def _run(python: Path, script: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a script in a client's environment, and return the lines of JSON that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, "-I", FOLDER / script, *arguments],
            capture_output=True, text=True, timeout=TIMEOUT, cwd=folder, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def headless(python: Path) -> Table:
    """Call each method of mixpanel-headless' Workspace."""
    with shop() as (emulator, ids):
        lines = _run(python, "headless_calls.py", emulator.url, json.dumps(ids))
        found = {name: Method(name) for name in lines[-1]["methods"]}
    # In a shop of its own: their calls have changed what is saved.
    with shop() as (emulator, ids), workspace(emulator) as ws:
        for line in lines:
            if "method" in line:
                _add(found.setdefault(line["method"], Method(line["method"])), line, ws, ids)
    stopped = [f"{each['area']}: {each['stopped']}" for each in lines if "stopped" in each]
    name = f"mixpanel-headless {lines[-1]['version']}"
    return Table(name, list(found.values()), stopped, LEAST_ANSWERED)


def _add(method: Method, line: Mapping[str, Any], ws: Workspace, ids: Mapping[str, int]) -> None:
    method.calls += 1
    method.requests += len(line["requests"])
    label = f"{line['label']}: " if line["label"] else ""
    if not line["ok"]:
        if line["error"].startswith(GONE):
            method.refusals.append(label + line["error"])
        elif (line["method"], line["label"]) in NOT_COMPUTED and "not computed" in line["error"]:
            method.not_computed.append(label + line["error"])
        else:
            method.problems.append(label + line["error"])
        return
    found = difference(line["method"], line["label"], line["value"], ws, ids)
    if found is not None:
        method.compared += 1
        if found:
            method.differences.append(label + found)


def utils(python: Path) -> Table:
    """Call each method of mixpanel-utils."""
    with shop() as (emulator, ids):
        lines = _run(python, "utils_calls.py", emulator.url)
    found = {name: Method(name) for name in lines[-1]["methods"]}
    with shop() as (emulator, ids), workspace(emulator) as ws:
        for line in lines:
            if "method" in line:
                _add(found[line["method"]], line, ws, ids)
    stopped = [f"{each['area']}: {each['stopped']}" for each in lines if "stopped" in each]
    return Table(f"mixpanel-utils {lines[-1]['version']}", list(found.values()), stopped, 26)
