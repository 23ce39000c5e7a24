"""The README's code, run as it stands against the emulator."""

import ast
import doctest
import re
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

import mixpanel
from mixpanel import AsyncMixpanel, LocalFlagsConfig, emulator
from mixpanel.data import Workspace
from mixpanel.flags import SelectedVariant
from tests.cli_data import environment, fill
from tests.test_flags_local import flag

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
NOW = time.time()


def shop():
    """What the README takes as given."""
    return {
        **{name: getattr(mixpanel, name) for name in mixpanel.__all__},
        "SelectedVariant": SelectedVariant,
        "orders": [SimpleNamespace(user="u-17", total=12.5, id="7", at=NOW)],
        "rows": [{"event": "Signed Up", "properties": {"time": NOW, "distinct_id": "u-17"}}],
        "secret": "s3cret",
        "report": lambda *_: None,
        "redact": lambda _endpoint, message: message,
        "settings": SimpleNamespace(TESTING=True),
        "user": {"distinct_id": "u-17", "custom_properties": {"plan": "team"}},
    }


@pytest.fixture
def emu(monkeypatch, tmp_path):
    """A Mixpanel with the README's flags and orders, an account for it, and a home of its own."""
    beta, half = flag("beta"), flag("new-checkout")
    beta["ruleset"]["rollout"][0]["cohort_hash"] = "insiders"
    half["ruleset"]["rollout"][0]["rollout_percentage"] = 0.5
    with emulator.Emulator(flags=[beta, half]) as running:
        fill(running)
        told = {
            **environment(running.url, tmp_path),
            "HOME": str(tmp_path),
            "MP_CUSTOMERIO_BASE_URL": running.customerio_url,
            "MP_HIGHTOUCH_BASE_URL": running.hightouch_url,
        }
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        yield running


async def run(code, names):
    """Run a block; what it awaits is awaited, and what blocks runs in a thread."""
    compiled = compile(code, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if "await" in code:
        await eval(compiled, names)
    else:
        await anyio.to_thread.run_sync(eval, compiled, names)


@pytest.mark.parametrize("code", [block for block in BLOCKS if ">>>" not in block])
def test_its_code_runs(emu, code):
    """Each block by itself, with a client, a local Mixpanel and a shop to work for."""

    async def main():
        config = LocalFlagsConfig(enable_polling=False)
        async with AsyncMixpanel("t", local_flags_config=config) as mp:
            await run(code, shop() | {"mp": mp, "emu": emu})

    anyio.run(main)


def test_its_flags_say_what_it_says(emu):
    """Variants, reasons and buckets, to the letter."""
    [block] = [block for block in BLOCKS if "explain(" in block]
    with mixpanel.Mixpanel("t", local_flags_config=LocalFlagsConfig()) as mp:
        names = shop() | {"mp": mp}
        test = doctest.DocTestParser().get_doctest(block, names, "README.md", None, 0)
        assert doctest.DocTestRunner().run(test)[:2] == (0, 2)


def test_it_names_only_what_exists():
    """Files, methods of a workspace, and the package's extras."""
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
    for called in re.findall(r"\bws\.(\w+)\(", README):
        assert hasattr(Workspace, called), called
    named = {
        one for extra in re.findall(r"mixpanel-async\[(.+?)\]", README) for one in extra.split(",")
    }
    known = (root / "pyproject.toml").read_text()
    assert named
    assert all(f"\n{one} = [" in known for one in named)
