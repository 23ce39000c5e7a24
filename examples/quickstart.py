"""Track events and update a profile from async code.

    MP_TOKEN=... python examples/quickstart.py

To try it without an account, run `mp emulator` and set MP_BASE_URL=http://127.0.0.1:8650.
"""

import asyncio
import os

from mixpanel import AsyncMixpanel, context


async def main() -> None:
    """Track a sign-up and three opened reports."""
    async with AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN")) as mp:
        await mp.track("u-17", "Signed Up", {"plan": "team"})
        await mp.people_set("u-17", {"$name": "Ada", "plan": "team"})

        # Events in this block have the user and the properties of the context.
        with context("u-17", {"page": "/reports"}):
            for report in ("sales", "traffic", "churn"):
                await mp.track(None, "Report Opened", {"report": report})

        # Leaving `async with` sends pending messages; flush() sends them now.
        result = await mp.flush()
        print(f"{result.delivered} delivered, {result.pending} pending")


if __name__ == "__main__":
    asyncio.run(main())
