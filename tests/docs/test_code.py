"""The code of the guides runs as it stands, against a local Mixpanel."""

import ast
import contextlib
import doctest
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import anyio
import pytest

from mixpanel import AsyncMixpanel, Mixpanel
from mixpanel.emulator import Emulator
from tests.cli.cli_data import environment, runner
from tests.docs.pages import ROOT, Page, documentation, other_tests
from tests.flags.test_local import flag

DATA = ROOT / "examples" / "data"
ADDRESS = "http://127.0.0.1:8650"
VARIES = (
    (r"\b\d+\.\d s\b", "0.0 s"),
    (r"\b20\d\d-\d\d-\d\d \d\d:\d\d\b", "2026-01-01 00:00"),
    (r" +$", ""),  # a table fills its columns
)

# Pages with a test file of their own are run there; the rest, new ones too, are run here.
RUN_HERE = {page.path.name: page for page in documentation() if not other_tests(page)}
RUN_HERE["README.md of mixpanel/cdp"] = Page.read(ROOT / "mixpanel" / "cdp" / "README.md")
WITH_PYTHON = [
    page for page in RUN_HERE.values() if any(b.language == "python" for b in page.blocks())
]
WITH_SHELL = [
    page for page in RUN_HERE.values() if any(b.language == "console" for b in page.blocks())
]

pytestmark = pytest.mark.slow


def each(pages):
    return pytest.mark.parametrize("page", pages, ids=[page.path.stem for page in pages])


@pytest.fixture
def emu(monkeypatch, tmp_path):
    """Start a local Mixpanel with sample flags and events, an account and a home folder."""
    flags = [flag("new-checkout"), flag("button-colour", value="blue")]
    with Emulator(flags=flags) as running:
        running.load(DATA / "flights.ndjson")
        data = {
            **environment(running.url, tmp_path),
            "HOME": str(tmp_path),
            "MP_CUSTOMERIO_BASE_URL": running.customerio_url,
            "MP_HIGHTOUCH_BASE_URL": running.hightouch_url,
            "MP_SEGMENT_BASE_URL": running.segment_url,
            "MP_RUDDERSTACK_BASE_URL": running.rudderstack_url,
            "MP_TOKEN": "YOUR_TOKEN",
        }
        for name, value in data.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield running


def compiled(page, block):
    """Return the code of a block, whose errors name its line; empty for a doctest."""
    code = "" if ">>>" in block.code else "\n" * (block.line - 1) + block.code
    return compile(code, str(page.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run_sync(page, block, names):
    if ">>>" in block.code:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        parser = doctest.DocTestParser()
        test = parser.get_doctest(block.code, names, page.path.name, None, block.line)
        assert not runner.run(test, clear_globs=False).failed
    else:
        exec(compiled(page, block), names)
    if not block.hidden:
        names.setdefault("blocks", []).append(block.code)


async def run_block(page, block, names):
    """Run a block; on the event loop if it awaits something, else in a thread."""
    code = compiled(page, block)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
        names.setdefault("blocks", []).append(block.code)
    else:
        await anyio.to_thread.run_sync(run_sync, page, block, names)


@each(WITH_PYTHON)
def test_the_python_code_of_a_page_runs(emu, page, monkeypatch):
    """From top to bottom, as one program; hidden code prepares names and checks what arrived."""
    module = ModuleType("example")
    names = vars(module)
    names |= {"emu": emu, "monkeypatch": monkeypatch, "blocks": []}
    monkeypatch.setitem(sys.modules, "example", module)  # so that annotations are found

    blocks = [b for b in page.blocks() if b.language == "python" and b.not_run is None]

    async def main():
        for block in blocks:
            await run_block(page, block, names)

    try:
        if any(compiled(page, block).co_flags & inspect.CO_COROUTINE for block in blocks):
            anyio.run(main)
        else:  # in the main thread, as signal handlers need it
            for block in blocks:
                run_sync(page, block, names)
    finally:
        for value in names.values():
            if isinstance(value, Mixpanel):
                value.close()
                if hasattr(value.consumer, "close"):
                    value.consumer.close()
            elif isinstance(value, AsyncMixpanel):
                anyio.run(value.aclose)


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


def shell():
    """Return the environment of a shell with `mp` on its path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ours, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(os.name != "posix", reason="the transcripts are of a POSIX shell")
@each(WITH_SHELL)
def test_the_commands_of_a_page_work(emu, page, monkeypatch):
    """In one shell; a block that shows output is compared with what is printed."""
    with contextlib.suppress(FileExistsError):
        Path("examples").symlink_to(ROOT / "examples")
    for block in page.blocks():
        if block.language != "console" or block.not_run is not None:
            continue
        commands = typed(block.code)
        assert commands, f"{page.path}:{block.line}: begin each command with `$ `"
        shows = [f"printf '%s\\n' {shlex.quote(shown)}\n{command}\n" for shown, command in commands]
        script = "".join(shows).replace(ADDRESS, emu.url)
        has_output = "".join(shown + "\n" for shown, _ in commands) != block.code
        done = subprocess.run(
            ["sh", "-c" if has_output else "-ec", script],
            env=shell(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        printed = done.stdout.replace(emu.url, ADDRESS)
        if has_output:
            assert alike(block.code) == alike(printed)
        else:
            assert done.returncode == 0, f"{page.path}:{block.line}\n{printed}"


def test_the_commands_for_flags_are_exact(monkeypatch, tmp_path):
    """The explanation is that of the page, and the linter finds nothing."""
    text = RUN_HERE["flags.md"].text
    mp = runner(environment("http://127.0.0.1:9", tmp_path))
    monkeypatch.chdir(ROOT)
    explain, lint, _ = (
        shlex.split(one, comments=True)
        for one in re.findall(r"^\$ mp (.+flags\.json.*)$", text, re.MULTILINE)
    )
    done = mp(*explain, "--format", "plain")  # what a terminal shows
    assert done.exit_code == 0
    assert f'explain("new-checkout", user))\n{done.stdout}' in text
    done = mp(*lint)
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"problems": []})


def test_every_page_is_run_by_a_test():
    """Here, or in a test that names the page."""
    from tests.docs.checks import untested

    assert untested() == []


def test_a_block_that_fails_fails():
    """The runner passes nothing over: an error names the page and its line."""
    page = Page(Path("docs/x.md"), "# X\n\nText.\n\n```python\nraise KeyError('boom')\n```\n")
    with pytest.raises(KeyError, match="boom") as caught:
        run_sync(page, page.blocks()[0], {})
    assert str(caught.traceback[-1].path).endswith("x.md")
    assert caught.traceback[-1].lineno + 1 == 6


def test_a_doctest_of_a_page_is_compared():
    """A result that differs from the page fails."""
    page = Page(Path("docs/x.md"), "# X\n\n```python\n>>> 1 + 1\n3\n```\n")
    with pytest.raises(AssertionError):
        run_sync(page, page.blocks()[0], {})
