"""Run a local Mixpanel: `with Emulator() as emu:` and send to `emu.url`.

It takes events and profiles by the documented rules, keeps them in DuckDB, gives them back by raw
export and profile query, serves feature flags, and plays the faults you script. Needs the extra:
`pip install 'mixpanel-async[emulator]'`.
"""

try:
    from mixpanel.emulator.access import Limits
    from mixpanel.emulator.emulator import Emulator, serve
    from mixpanel.emulator.faults import Fault
    from mixpanel.emulator.journal import RecordedRequest
except ModuleNotFoundError as error:
    if error.name in ("duckdb", "starlette", "uvicorn"):
        raise ImportError("the emulator needs: pip install 'mixpanel-async[emulator]'") from error
    raise

__all__ = ["Emulator", "Fault", "Limits", "RecordedRequest", "serve"]
