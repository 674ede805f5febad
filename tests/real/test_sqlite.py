"""SQLite in WAL mode: its -shm file is memory that all processes of a database map and lock."""

import sqlite3
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.mount

WORKER = """
import sqlite3, sys

connection = sqlite3.connect("data.db", timeout=60, isolation_level=None)
assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
number = int(sys.argv[1])
for step in range(60):
    connection.execute("begin immediate")
    total = connection.execute("select total from counter").fetchone()[0]
    connection.execute("update counter set total = ?", (total + 1,))
    connection.execute("insert into log values (?, ?, ?)", (number, step, str(step) * 500))
    connection.execute("commit")
    rows, counted = connection.execute("select count(*), (select total from counter) from log").fetchone()
    assert rows == counted, (rows, counted)
    if step % 20 == 10:
        connection.execute("pragma wal_checkpoint(passive)")
connection.close()
"""


@pytest.mark.parametrize("options", ["size=64m", "size=64m,reserve=strict"])
def test_several_processes_in_wal_mode(shmfs: Any) -> None:
    database = shmfs.path / "data.db"
    connection = sqlite3.connect(database, isolation_level=None)
    assert connection.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    connection.execute("create table counter (total)")
    connection.execute("insert into counter values (0)")
    connection.execute("create table log (worker, step, text)")
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(number)], cwd=shmfs.path, stderr=subprocess.PIPE)
        for number in range(6)
    ]
    said = [worker.communicate(timeout=100)[1] for worker in workers]
    assert said == [b""] * 6
    assert (shmfs.path / "data.db-shm").exists()
    assert connection.execute("select total, (select count(*) from log) from counter").fetchone() == (
        360,
        360,
    )
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
    assert [path.name for path in shmfs.path.iterdir()] == ["data.db"]  # the last one out cleans up
    again = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    assert again.execute("select sum(length(text)) from log").fetchone()[0] == 6 * 500 * (10 + 50 * 2)
    again.close()


KILLED = """
import os, sqlite3, sys

connection = sqlite3.connect("data.db", timeout=60, isolation_level=None)
connection.execute("begin immediate")
connection.execute("insert into log values (1)")
print("in the middle", flush=True)
sys.stdin.read()
"""


def test_a_writer_that_is_killed_loses_only_what_it_did_not_commit(shmfs: Any) -> None:
    connection = sqlite3.connect(shmfs.path / "data.db", isolation_level=None, timeout=60)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table log (number)")
    connection.execute("insert into log values (0)")
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, cwd=shmfs.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == b"in the middle\n"
        victim.kill()
    connection.execute("insert into log values (2)")
    assert connection.execute("select number from log").fetchall() == [(0,), (2,)]
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("options", ["size=512k"])
def test_a_full_file_system_is_an_error_and_no_damage(shmfs: Any) -> None:
    connection = sqlite3.connect(shmfs.path / "data.db", isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("create table log (number, text)")
    stored = 0

    def fill() -> None:
        nonlocal stored
        while True:
            connection.execute("insert into log values (?, ?)", (stored, "x" * 3000))
            stored += 1

    with pytest.raises(sqlite3.OperationalError, match=r"full|disk I/O"):
        fill()
    assert stored > 20
    assert connection.execute("select count(*) from log").fetchone() == (stored,)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()
