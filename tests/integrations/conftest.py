"""Fixtures of several integrations."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from mixpanel.integrations import _request


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """Start IPython without a history."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def _log_every_failure():
    """Forget which failures were logged in the last minute."""
    _request._failures.clear()
