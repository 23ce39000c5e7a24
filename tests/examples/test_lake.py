"""The lake, read by a distributed engine."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mixpanel.emulator import Emulator
from tests.data.test_fetch import fill

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "lake.py"
ACCOUNT = {"MP_USERNAME": "u", "MP_SECRET": "s", "MP_PROJECT_ID": "7", "MP_REGION": "us"}


@pytest.mark.skipif(find_spec("daft") is None, reason="the engine is not installed")
def test_the_engine_and_duckdb_agree(tmp_path):
    """The users of each day, counted from the lake and from the database."""
    with Emulator() as emu:
        fill(emu, tmp_path, 10)
        command = [sys.executable, EXAMPLE, tmp_path / "lake", "2026-01-01", "2026-01-10"]
        environment = os.environ | ACCOUNT | {"MP_BASE_URL": emu.url}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"2026-01-{day:02} 7" for day in range(1, 11)]
    assert (tmp_path / "lake" / "day=2026-01-05").is_dir()
