"""Import a file of events of any age, with a result for each event.

    MP_TOKEN=... MP_USERNAME=... MP_SECRET=... MP_PROJECT_ID=... python examples/bulk_import.py

It uses a service account (Organization Settings > Service Accounts). To try it without one, run
`mp emulator`, set MP_BASE_URL=http://127.0.0.1:8650, and set the other variables to any value. The
same from the shell: `mp import events examples/data/flights.ndjson`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixpanel import AsyncMixpanel, ServiceAccountCredentials

ACCOUNT = ("MP_TOKEN", "MP_USERNAME", "MP_SECRET", "MP_PROJECT_ID")
FLIGHTS = Path(__file__).parent / "data" / "flights.ndjson"


def events(file: Path) -> Iterator[dict[str, Any]]:
    """Read events one by one, so that a file of any size takes little memory."""
    with file.open() as lines:
        yield from map(json.loads, lines)


async def main() -> None:
    """Import the file, and print the rejected events."""
    if missing := [name for name in ACCOUNT if not os.environ.get(name)]:
        sys.exit(f"a project token and a service account are required: set {', '.join(missing)}")
    token, username, secret, project_id = (os.environ[name] for name in ACCOUNT)
    account = ServiceAccountCredentials(username, secret, project_id)
    async with AsyncMixpanel(token, credentials=account) as mp:
        result = await mp.import_events(
            events(FLIGHTS), on_progress=lambda done: print(f"{done.imported:,} imported …")
        )
    for record in result.rejected_records:
        print(f"event {record.index}: {record.message}", file=sys.stderr)
    print(f"{result.imported:,} imported, {result.rejected:,} rejected")


if __name__ == "__main__":
    asyncio.run(main())
