"""Evaluate flags through OpenFeature, and track a conversion.

    pip install 'mixpanel-async[openfeature]'
    MP_TOKEN=... python examples/openfeature_flags.py

To try it without an account, run `mp emulator --flags examples/data/flags.json` and set
MP_BASE_URL=http://127.0.0.1:8650; an undefined flag is reported as an error, with the value False.
"""

import asyncio
import os

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails

from mixpanel import AsyncMixpanel, LocalFlagsConfig
from mixpanel.flags.openfeature import MixpanelProvider

VISITORS = [
    EvaluationContext("u-17", {"plan": "team"}),
    EvaluationContext("u-18", {"plan": "free"}),
]


async def main() -> None:
    """Show each visitor one of two checkouts, and track their payment."""
    token = os.environ.get("MP_TOKEN", "YOUR_TOKEN")
    async with AsyncMixpanel(token, local_flags_config=LocalFlagsConfig()) as mp:
        # Opening the client fetched the definitions, so this does not block.
        api.set_provider_and_wait(MixpanelProvider(mp))
        flags = api.get_client()
        for visitor in VISITORS:
            # Evaluated in this process; with a remote provider this would await the server.
            seen = await flags.get_boolean_details_async("new-checkout", False, visitor)  # noqa: FBT003
            print(f"{visitor.targeting_key}: new checkout {seen.value}, because {seen.reason}")
            if seen.error_code:
                print(f"  {seen.error_code}: {seen.error_message}")
            flags.track("Order Paid", visitor, TrackingEventDetails(12.5, {"new": seen.value}))
        api.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
