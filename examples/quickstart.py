"""Track events and update a profile from async code.

    MP_TOKEN=... python examples/quickstart.py

To try it without an account, run `mp emulator` and set MP_BASE_URL=http://127.0.0.1:8650.
"""

import asyncio
import os

from mixpanel import AsyncMixpanel, context


async def main() -> None:
    """Sign somebody up, and let them open three reports."""
    async with AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN")) as mp:
        await mp.track("u-17", "Signed Up", {"plan": "team"})
        await mp.people_set("u-17", {"$name": "Ada", "plan": "team"})

        # Inside the block every event knows who it is about and where it happened.
        with context("u-17", {"page": "/reports"}):
            for report in ("sales", "traffic", "churn"):
                await mp.track(None, "Report Opened", {"report": report})

        # Leaving `async with` sends what waits; flush() does it now and says what came of it.
        result = await mp.flush()
        print(f"{result.delivered} delivered, {result.pending} still waiting")


if __name__ == "__main__":
    asyncio.run(main())
