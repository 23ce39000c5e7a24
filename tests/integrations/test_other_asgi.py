"""Quart and Litestar, in the environment of the peers."""

import os
import subprocess
from pathlib import Path

import pytest

from tests import peers

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "programs" / "other_asgi.py"


@pytest.mark.parametrize("name", ["quart", "litestar", "litestar-inside"])
def test_requests_have_their_context_and_the_lifespan_flushes(emu, name):
    """A login changes the identity, a streamed body has it, and nothing is left at the end."""
    peers.ensure("runtimes")
    environment = {**os.environ, "MP_BASE_URL": emu.url, "PYTHONPATH": str(peers.ROOT)}
    subprocess.run([peers.python("runtimes"), PROGRAM, name], env=environment, check=True)
    found = [(e["event"], e["properties"]["distinct_id"]) for e in emu.events()]
    assert found == [("Before", "u-1"), ("After", "u-2"), ("Piece", "u-1"), ("Piece", "u-1")]
