"""`mp emulator --open` and `mp demo --stay`."""

import io
import webbrowser
from types import SimpleNamespace

import anyio
import httpx
import pytest
import typer
from rich.console import Console

from mixpanel import emulator as package
from mixpanel.cli import demo, emulator


@pytest.mark.parametrize("has_browser", [True, False])
def test_the_page_is_opened_once_the_emulator_serves_it(monkeypatch, capsys, has_browser):
    """Without a browser its address is printed."""
    opened = []

    def find():
        if not has_browser:
            raise webbrowser.Error("none")
        return SimpleNamespace(open=lambda url: opened.append(httpx.get(url).status_code) or True)

    def serve(port, db, *, started, **options):
        with package.Emulator() as running:
            started(running)
            opened.append(running.url)

    monkeypatch.setattr(webbrowser, "get", find)
    monkeypatch.setattr(package, "serve", serve)
    app = typer.Typer()
    app.command()(emulator.emulator)
    typer.main.get_command(app)(["--port", "0", "--open"], standalone_mode=False)
    *status, url = opened
    assert status == ([200] if has_browser else [])
    printed = capsys.readouterr().err
    assert ("There is no browser here to open" in printed) is not has_browser
    assert url in printed


def test_the_demo_stays_until_it_is_interrupted(monkeypatch):
    """Its page can be looked at meanwhile, at the address that it ends with."""
    monkeypatch.setattr(demo, "STEPS", demo.STEPS[:1])
    file, staying, seen = io.StringIO(), [], []

    async def main():
        async with anyio.create_task_group() as group:
            console = Console(file=file, width=100, highlight=False)
            group.start_soon(demo._play, console, True, staying)
            with anyio.fail_after(10):
                while not staying:
                    await anyio.sleep(0.01)
            url = file.getvalue().rpartition("all that arrived: ")[2].split()[0]
            async with httpx.AsyncClient() as client:
                seen.append((await client.get(url)).status_code)
            group.cancel_scope.cancel()

    anyio.run(main)
    assert [200] == seen


def test_the_demo_says_how_to_see_its_page(monkeypatch):
    """At its end, when the server is gone."""
    monkeypatch.setattr(demo, "STEPS", ())
    file = io.StringIO()
    anyio.run(demo._play, Console(file=file, width=100, highlight=False))
    assert "mp demo --stay" in file.getvalue().splitlines()[-1]
