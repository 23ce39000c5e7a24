"""The tour of `mp` in docs/shell.md: its commands, typed as they stand, answer as it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "shell.md").read_text()
BLOCKS = re.findall(r"^```console\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8650"
VARIES = (
    (r"\b\d+\.\d s\b", "0.0 s"),
    (r"\b20\d\d-\d\d-\d\d \d\d:\d\d\b", "2026-01-01 00:00"),
    (r" +$", ""),  # a table fills its columns
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.skipif(os.name != "posix", reason="the walk is in a POSIX shell"),
]


def block(begins):
    """Return the transcript that begins with this command."""
    [found] = [one for one in BLOCKS if one.startswith(f"$ {begins}")]
    return found


def typed(transcript):
    """Return each command, as shown and as run; a line that begins with `>` continues it."""
    shown = re.findall(r"^(\$ .+\n(?:> .+\n)*)", transcript, re.MULTILINE)
    return [
        (one.rstrip("\n"), one.removeprefix("$ ").replace("\n> ", "\n").rstrip("\n"))
        for one in shown
    ]


def alike(text):
    """Take out what differs from one day and machine to the next."""
    for varying, fixed in VARIES:
        text = re.sub(varying, fixed, text, flags=re.MULTILINE)
    return text


def answered(transcript, address, env, folder):
    """Type the commands of a transcript, with the emulator at this address; return what is seen."""
    script = "".join(
        f"printf '%s\\n' {shlex.quote(shown)}\n{command}\n" for shown, command in typed(transcript)
    )
    done = subprocess.run(
        ["sh", "-c", script.replace(ADDRESS, address)],
        cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return done.stdout.replace(address, ADDRESS)


@pytest.fixture
def env(tmp_path):
    """A newcomer's shell: a home without any file, no account, `mp` on its path."""
    foreign = ("MP_", "FORCE_COLOR", "XDG_")
    known = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"HOME": str(tmp_path), "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    return {**known, **ours, "PYTHONUNBUFFERED": "1"}  # data and talk in the order they are text


@pytest.fixture
def emulator(env):
    """Type the walk's first command, at a port that is free; return its address and its words."""
    transcript = block("mp emulator --load")
    [(shown, command)] = typed(transcript)
    running = subprocess.Popen(
        [*shlex.split(command), "--port", "0"],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with running:
        try:
            result = "".join(running.stdout.readline() for _ in transcript.splitlines()[1:])
            yield re.search(r"http://\S+", result)[0], f"{shown}\n{result}"
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(10)
    assert 0 == running.returncode


def test_the_commands_of_the_tour_print_what_it_shows(env, emulator, tmp_path):
    """From no account to SQL, with results, messages and an error."""
    address, result = emulator
    assert block("mp emulator --load") == result.replace(address, ADDRESS)

    transcript = block(f"export MP_BASE_URL={ADDRESS}")
    assert alike(transcript) == alike(answered(transcript, address, env, tmp_path))
    assert 0o600 == (tmp_path / ".mp" / "config.toml").stat().st_mode & 0o777
    assert (tmp_path / "lake" / "day=2013-02-10").is_dir()
