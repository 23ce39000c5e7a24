"""Run a local Mixpanel: `with Emulator() as emu:` and send to `emu.url`.

It takes events and profiles by the documented rules, keeps them in DuckDB, gives them back by raw
export and profile query, serves feature flags, and plays the faults you script. Customer.io's and
Hightouch's wires are there too: `emu.customerio_url`, `emu.hightouch_url`. Needs the
extra: `pip install 'mixpanel-async[emulator]'`.
"""

try:
    from mixpanel.emulator._rules.access import Limits
    from mixpanel.emulator._rules.cdp import Contract, CustomerIORules, HightouchRules
    from mixpanel.emulator._rules.oauth import OAuthRules
    from mixpanel.emulator._storage.request_log import RecordedRequest
    from mixpanel.emulator.emulator import Emulator, serve
    from mixpanel.emulator.faults import Fault
except ModuleNotFoundError as _error:
    if _error.name in ("duckdb", "starlette", "uvicorn"):
        raise ImportError("the emulator needs: pip install 'mixpanel-async[emulator]'") from _error
    raise

__all__ = [
    "Contract",
    "CustomerIORules",
    "Emulator",
    "Fault",
    "HightouchRules",
    "Limits",
    "OAuthRules",
    "RecordedRequest",
    "serve",
]
