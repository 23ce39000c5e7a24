"""`mp flags eval --remote`: what it refuses, and how a refusal ends."""

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.emulator import Fault
from tests.cli.test_flags import USER, mp

pytestmark = pytest.mark.slow

EVAL = ("flags", "eval", "checkout", "--context", USER, "--remote")


def test_remote_and_a_file_cannot_be_used_together(emu, tmp_path):
    """No request is sent."""
    file = tmp_path / "flags.json"
    file.write_text('{"flags": []}')
    done = mp(*EVAL, "--file", str(file), emu=emu)
    assert done.exit_code == ExitCode.USAGE
    assert "--remote" in done.stderr
    assert "--file" in done.stderr
    assert emu.requests() == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, ExitCode.AUTHENTICATION),
        (403, ExitCode.AUTHENTICATION),
        (429, ExitCode.RATE_LIMITED),
        (500, ExitCode.ERROR),
    ],
)
def test_the_status_of_a_failed_remote_evaluation_decides_the_exit_code(emu, status, code):
    """A script can distinguish invalid credentials from a server that is down."""
    emu.play(Fault.status(status).forever())
    done = mp(*EVAL, emu=emu)
    assert done.exit_code == code
    assert f"HTTP {status}" in done.stderr
