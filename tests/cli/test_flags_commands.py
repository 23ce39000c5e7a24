"""`mp flags eval --remote`: what it refuses, and how a refusal ends."""

import pytest

from mixpanel.cli._output.exit_codes import ExitCode
from mixpanel.emulator import Fault
from tests.cli.test_flags import USER, mp

pytestmark = pytest.mark.slow

EVAL = ("flags", "eval", "checkout", "--context", USER, "--remote")


def test_remote_and_a_file_exclude_each_other(emu, tmp_path):
    """Nothing is asked, and nothing of the file is taken for what Mixpanel says."""
    file = tmp_path / "flags.json"
    file.write_text('{"flags": []}')
    done = mp(*EVAL, "--file", str(file), emu=emu)
    assert done.returncode == ExitCode.USAGE
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
def test_an_answer_without_variants_ends_as_its_status_says(emu, status, code):
    """A script can tell refused credentials from a server that is down."""
    emu.play(Fault.status(status).forever())
    done = mp(*EVAL, emu=emu)
    assert done.returncode == code
    assert f"HTTP {status}" in done.stderr
