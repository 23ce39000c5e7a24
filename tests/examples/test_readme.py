"""The README's code, run unchanged against the emulator."""

import ast
import re
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from mixpanel import AsyncMixpanel, LocalFlagsConfig, emulator
from mixpanel.data import Workspace
from tests.cli.cli_data import environment
from tests.flags.test_local import flag

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
DATA = ROOT / "examples" / "data"
NOW = time.time()


def shop():
    """Return the names that the README assumes to exist."""
    return {
        "orders": [SimpleNamespace(user="u-17", total=12.5, id="7", at=NOW)],
        "rows": [{"event": "Signed Up", "properties": {"time": NOW, "distinct_id": "u-17"}}],
        "secret": "s3cret",
        "report": lambda *_: None,
        "redact": lambda _endpoint, message: message,
        "settings": SimpleNamespace(TESTING=True),
    }


def above(code):
    """Return the imports and literal values of the preceding blocks."""
    names = {}
    for block in BLOCKS[: BLOCKS.index(code)]:
        for node in ast.parse(block).body if ">>>" not in block else ():
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), "README.md", "exec"), names)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict | ast.Constant):
                names[node.targets[0].id] = ast.literal_eval(node.value)
    return names


@pytest.fixture
def emu(monkeypatch, tmp_path):
    """Start a local Mixpanel with a flag, events, an account and a home folder."""
    with emulator.Emulator(flags=[flag("new-checkout")]) as running:
        running.load(DATA / "flights.ndjson")
        data = {
            **environment(running.url, tmp_path),
            "HOME": str(tmp_path),
            "MP_CUSTOMERIO_BASE_URL": running.customerio_url,
            "MP_HIGHTOUCH_BASE_URL": running.hightouch_url,
        }
        for name, value in data.items():
            monkeypatch.setenv(name, value)
        yield running


async def run(code, names):
    """Run a block; on an event loop if it awaits something, else in a thread."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if "await" in code:
        await eval(compiled, names)
    else:
        await anyio.to_thread.run_sync(eval, compiled, names)


@pytest.mark.slow
@pytest.mark.parametrize("code", [block for block in BLOCKS if ">>>" not in block])
def test_each_code_block_of_the_readme_runs(emu, code):
    """Each block runs separately, against a local Mixpanel."""

    async def main():
        config = LocalFlagsConfig(enable_polling=False)
        async with AsyncMixpanel("t", local_flags_config=config) as mp:
            await run(code, above(code) | shop() | {"mp": mp, "emu": emu})

    anyio.run(main)


def test_the_readme_names_only_what_exists():
    """Files, and methods of a workspace."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for called in re.findall(r"\bws\.(\w+)\(", README):
        assert hasattr(Workspace, called), called
