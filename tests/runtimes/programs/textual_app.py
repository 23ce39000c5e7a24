"""An application of Textual: handlers run on its event loop, workers in threads."""

import os

from clients import CLIENTS, track
from textual.app import App
from textual.widgets import Button

from mixpanel import AsyncMixpanel
from mixpanel.data import Credentials, Workspace

ROBOT = Credentials(username="robot", secret="secret", project_id="1")


class Shop(App):
    """Tracks from sync and async handlers, and from a worker thread."""

    def compose(self):
        """Yield what the window shows."""
        yield Button("Buy", id="buy")

    async def on_mount(self):
        """Track from an async handler."""
        self.mp = AsyncMixpanel("t")
        await self.mp.track("u", "Visit", {"n": 0, "via": "await"})

    def on_button_pressed(self):
        """Track from a handler without `await`, on the thread of the loop."""
        for n in range(20):
            track(n, "BufferedConsumer", "AsyncBufferedConsumer")
        self.run_worker(self.work, thread=True)

    def work(self):
        """Run in a thread, where sync code may wait."""
        for n in range(20):
            track(n, "Consumer")
        for client in CLIENTS.values():
            assert client.flush().ok
        with Workspace.memory(credentials=ROBOT) as workspace:
            assert workspace.list_events() == ["Visit"]
        self.call_from_thread(self.end)

    async def end(self):
        """Close the client and the window."""
        await self.mp.aclose()
        self.exit(0)


if __name__ == "__main__":
    app = Shop()

    async def press(pilot):
        """Press the button, as a user does."""
        await pilot.press("enter")

    app.run(headless=True, auto_pilot=press)
    os._exit(1 if app.return_value is None else 0)  # nothing may be left to send
