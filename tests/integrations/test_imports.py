"""Each module imports its own framework only, and this package none of them by itself."""

import subprocess
import sys

import pytest

FRAMEWORKS = {
    "starlette", "fastapi", "flask", "werkzeug", "django", "celery", "kombu", "dramatiq", "rq",
    "redis", "IPython", "quart", "litestar",
}  # fmt: skip
OWN = {
    "asgi": set(),
    "fastapi": {"fastapi", "starlette"},
    "wsgi": set(),
    "flask": {"flask", "werkzeug"},
    "django": {"django"},
    "celery": {"celery", "kombu", "django"},  # Celery itself looks for Django
    "dramatiq": {"dramatiq"},
    "rq": {"rq", "redis"},
    "serverless": set(),
    "ipython": set(),
    "flags": set(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_module_imports_its_own_framework_only(name):
    """So nothing else has to be installed."""
    source = f"""
import sys
import mixpanel
import mixpanel.integrations
assert not {FRAMEWORKS!r} & set(sys.modules)
from mixpanel.integrations import {name} as module
[getattr(module, public) for public in getattr(module, "__all__", ())]
assert {FRAMEWORKS!r} & set(sys.modules) <= {OWN[name]!r}
"""
    subprocess.run([sys.executable, "-c", source], check=True)
