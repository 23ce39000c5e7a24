"""Import a file of events of any age, and say what became of each.

    MP_USERNAME=... MP_SECRET=... MP_PROJECT_ID=... python examples/bulk_import.py

It uses a service account (Organization Settings > Service Accounts). The same from the shell:
`mp import events examples/data/flights.ndjson`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixpanel import AsyncMixpanel, ServiceAccountCredentials

FLIGHTS = Path(__file__).parent / "data" / "flights.ndjson"


def events(file: Path) -> Iterator[dict[str, Any]]:
    """Read events one by one, so that a file of any size takes little memory."""
    with file.open() as lines:
        yield from map(json.loads, lines)


async def main() -> None:
    """Import the file, and show what was refused."""
    account = ServiceAccountCredentials(
        os.environ["MP_USERNAME"], os.environ["MP_SECRET"], os.environ["MP_PROJECT_ID"]
    )
    async with AsyncMixpanel(os.environ.get("MP_TOKEN", "YOUR_TOKEN"), credentials=account) as mp:
        result = await mp.import_events(
            events(FLIGHTS), on_progress=lambda done: print(f"{done.imported:,} imported …")
        )
    for refused in result.failed_records:
        print(f"event {refused.index}: {refused.message}", file=sys.stderr)
    print(f"{result.imported:,} imported, {result.failed:,} refused")


if __name__ == "__main__":
    asyncio.run(main())
