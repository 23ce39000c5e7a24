"""The code of docs/tables-and-lakes.md runs, that of other tools in environments of their own."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from mixpanel.data import Workspace
from mixpanel.data.store import Database
from tests import peers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tables-and-lakes.md").read_text(encoding="utf-8")
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
CREATE = """
CREATE TABLE events AS SELECT 'Flight Departed' AS event_name,
    TIMESTAMP '2013-02-09' + n * INTERVAL 1 HOUR AS event_time, 'N' || n % 7 AS distinct_id,
    json_object('carrier', CASE WHEN n % 3 = 0 THEN 'AA' ELSE 'UA' END)::JSON AS properties
FROM range(48) AS r(n)
"""


def blocks(section, language):
    pattern = rf"^```{language}\n(.+?)^```"
    return re.findall(pattern, SECTIONS[section], re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make the database and files of the page."""
    for name in ("events.db", "eu.db"):
        with Database.open(tmp_path / name) as database:
            database.sql_rows(CREATE, write=True)
    (tmp_path / "carriers.csv").write_text("code,name\nAA,American\nUA,United\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_peer(peer, code, folder):
    """Run code in the environment of a peer, and return what it prints."""
    interpreter = peers.python(peer)
    if not interpreter.exists():
        pytest.skip(f"python -m tests.peers {peer} makes its environment")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [interpreter, "-c", code], cwd=folder, env=environ, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert 0 == run.returncode, run.stderr
    return run.stdout


def test_joins_and_lakes(folder, capsys):
    """In one workspace, one after the other."""
    with Workspace.open("events.db") as ws:
        for section in ("Joins with files", "Several projects", "Lakes"):
            for block in blocks(section, "python"):
                exec(compile(block, "tables-and-lakes.md", "exec"), {"ws": ws})
    out = capsys.readouterr().out
    assert re.search(r"United +32\nAmerican +16", out)
    assert re.search(r"us +48\neu +48", out)
    assert "() 2 ()" in out
    assert ["day=2013-02-09", "day=2013-02-10"] == sorted(p.name for p in Path("lake").iterdir())


def test_ibis(folder):
    """Expressions on tables and attached files."""
    [code] = blocks("ibis", "python")
    assert re.search(r"United +32", in_peer("lake", code, folder))


def test_delta(folder):
    """One commit for each call, and no row twice."""
    [code] = blocks("Delta Lake", "python")
    check = "\nfrom deltalake import DeltaTable\ntable = DeltaTable('delta')\n"
    check += "print(table.version(), table.to_pyarrow_table().num_rows)\n"
    assert "1 48\n" == in_peer("lake", code + check, folder)


def test_iceberg(folder):
    """A day that is replaced is there once."""
    [code] = blocks("Iceberg", "python")
    check = "\nprint(table.scan().to_arrow().num_rows, len(table.snapshots()) > 1)\n"
    assert "48 True\n" == in_peer("lake", code + check, folder)


def test_ducklake(folder):
    """Run twice, the rows are there once."""
    [code] = blocks("DuckLake", "python")
    check = "    print(con.execute('SELECT count(*) FROM lake.events').fetchall())\n"
    for _ in range(2):
        assert "[(24,)]\n" == in_peer("lake", code + check, folder)
    assert [*(folder / "ducklake").rglob("*.parquet")]


def test_dbt(folder):
    """A model in a schema of its own, which the workspace reads while it is open."""
    (folder / "dbt_project.yml").write_text("name: shop\nversion: '1.0'\nprofile: mixpanel\n")
    (folder / "models").mkdir()
    for language in ("yaml", "sql"):
        for block in blocks("dbt", language):
            name = block.splitlines()[0].lstrip("#- ")
            (folder / name).write_text(block)
    code = """
import json, os
os.environ |= {"MP_DB": "events.db", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
from dbt.cli.main import dbtRunner
result = dbtRunner().invoke(["--quiet", "build", "--profiles-dir", "."])
print(json.dumps([str(each.status) for each in result.result.results]))
"""
    with Workspace.open("events.db") as ws:
        assert 48 == ws.sql_scalar("SELECT count(*) FROM events")
        out = in_peer("dbt", code, folder)
        assert ["success"] == json.loads(out.splitlines()[-1])
        assert 48 == ws.sql_scalar("SELECT sum(events) FROM dbt.daily")
        assert ["events"] == [table.name for table in ws.tables()]
