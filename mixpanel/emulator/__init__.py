"""Run a local Mixpanel: `with Emulator() as emu:` and send to `emu.url`.

It validates events and profiles by the documented rules, stores them in DuckDB, returns them by raw
export and profile query, serves feature flags, and plays scripted faults. The APIs of Customer.io
and Hightouch are at `emu.customerio_url` and `emu.hightouch_url`. Needs the extra:
`pip install 'mixpanel-async[emulator]'`.
"""

try:
    from mixpanel.emulator._rules.cdp import Contract, CustomerIORules, HightouchRules
    from mixpanel.emulator._rules.oauth import OAuthRules
    from mixpanel.emulator._rules.rate_limits import Limits
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
