"""Run a local Mixpanel: `with Emulator() as emu:` and send to `emu.url`.

It speaks the ingestion wire by the documented rules, keeps what it gets in DuckDB, serves feature
flags, and plays the faults you script. Needs the extra: `pip install 'mixpanel-async[emulator]'`.
"""

try:
    from mixpanel.emulator.emulator import Emulator, serve
    from mixpanel.emulator.faults import Fault
    from mixpanel.emulator.journal import RecordedRequest
except ModuleNotFoundError as error:
    if error.name in ("duckdb", "starlette", "uvicorn"):
        raise ImportError("the emulator needs: pip install 'mixpanel-async[emulator]'") from error
    raise

__all__ = ["Emulator", "Fault", "RecordedRequest", "serve"]
