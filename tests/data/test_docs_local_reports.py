"""The page on local reports: its code runs, and it names every report there is."""

import re
from pathlib import Path

import httpx
import pytest

from mixpanel.data._workspace.local_analysis import LocalAnalysis
from mixpanel.emulator import Emulator

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "local-reports.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
BEGAN = 1_767_225_600_000


def test_the_code_of_the_page_runs(monkeypatch, tmp_path, capsys):
    """With an emulator that has its events."""
    pytest.importorskip("pandas")
    names = ["Signed Up", "Opened App", "Order Paid"]
    events = [
        {
            "event": names[n % 3],
            "properties": {
                "time": BEGAN + n * 3_600_000,
                "distinct_id": f"u{n % 4}",
                "$insert_id": f"i-{n}",
                "plan": "team",
            },
        }
        for n in range(60)
    ]
    with Emulator() as emu:
        sent = httpx.post(
            f"{emu.url}/import?strict=1&project_id=42", json=events, auth=("robot", "s3cret")
        )
        assert 200 == sent.status_code
        for name, value in {
            "MP_USERNAME": "robot",
            "MP_SECRET": "s3cret",
            "MP_PROJECT_ID": "42",
            "MP_REGION": "us",
            "MP_BASE_URL": emu.url,
            "HOME": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        for block in BLOCKS:
            exec(compile(block, "local-reports.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "Opened App → Order Paid" in shown
    assert "WITH events AS" in shown


def test_the_page_names_every_report():
    """And only existing ones."""
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)`", table.replace("`_", "`segmentation_")))
    offered = {name for name in dir(LocalAnalysis) if not name.startswith("_")}
    assert offered == named
