"""A trace as JSON lines, CSV or Parquet, for other programs and for the traces of many machines at once.

Every row says `host` and `boot_id`; a process is told from a later one with the same pid by `start_time`.
Names are those at that time. CSV and Parquet have the faults, with the columns `COLUMNS`; JSON lines have the
other events too, in the order of the file, which is about that of time, between `{"event": "meta", …}` and
`{"event": "done", …}`. What is not known is null, and empty in CSV. Times are integers everywhere:
nanoseconds since the epoch, for which not every reader of Parquet has a type.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from csv import writer as csv_writer
from typing import IO, Any

import msgspec
import numpy as np

from shmfs.errors import ShmfsError
from shmfs.tracefile.stream import ACCESSES, KINDS, SOURCES, Event, Faults, Known, Trace, split

Part = Faults | list[Event]

WHO = ("pid", "start_time", "command")
WHERE = ("path", "device", "inode")
HOW = ("kind", "access", "source")
PLAIN = ("time", "tid", "page", "ip", "cpu")
"""Fields of a fault that are columns as they are."""
MACHINE = ("host", "boot_id")
COLUMNS = (*PLAIN, *WHO, *WHERE, *HOW, *MACHINE)

GROUP = 1 << 19
"""Faults in a row group of Parquet; they are in memory at the same time."""


class _Rows:
    """What the columns of faults are taken from: tables of WHO by process, of WHERE by segment, of HOW."""

    def __init__(self, trace: Trace) -> None:
        self.machine = {name: getattr(trace.meta, name) for name in MACHINE}
        self.known = Known()

    def tables(self, faults: Faults) -> Iterator[tuple[list[Event], Any]]:
        """Yield tables of WHO, WHERE and HOW, with the row for each fault; the last is of what is unknown."""
        for names, field, rows in (
            (WHO, "process", self.known.processes),
            (WHERE, "segment", self.known.segments),
        ):
            table = [{name: row.get(name) for name in names} for row in [*rows, {}]]
            yield table, np.minimum(faults[field], len(rows))
        how = (faults["kind"].astype("u4") << 16) + (faults["access"].astype("u4") << 8) + faults["source"]
        found, index = np.unique(how, return_inverse=True)
        yield [describe_fault(code >> 16, code >> 8 & 255, code & 255) for code in found.tolist()], index

    def texts(self, faults: Faults, encode: Callable[[Event], str]) -> Iterator[tuple[Any, ...]]:
        """Yield what a line of text needs for each fault: PLAIN, and WHO, WHERE and HOW by `encode`.

        These are the same in many faults and encoded once, which makes the whole several times faster.
        """
        own = [faults[name].tolist() for name in PLAIN]
        shared = [
            np.array([encode(row) for row in table], object)[index].tolist()
            for table, index in self.tables(faults)
        ]
        return zip(*own, *shared, strict=True)

    def describe(self, event: Event) -> Event:
        """Return the event with names for its ids."""
        told = dict(event)
        for row, names in (
            (self._process(event.get("process")), WHO),
            (self.known.segment(_id(event.get("segment"))), WHERE),
        ):
            told |= {name: row.get(name) for name in names if row and name not in event}
        if "parent" in event:
            told["parent_pid"] = self._process(event["parent"]).get("pid")
        if "holders" in event:
            told["holders"] = [
                holder | {"pids": [self._process(one).get("pid") for one in holder.get("processes", ())]}
                for holder in event["holders"]
            ]
        return told | self.machine

    def _process(self, number: Any) -> Event:
        return self.known.process(_id(number))


def _id(number: Any) -> int | None:
    return number if isinstance(number, int) else None


def describe_fault(kind: int, access: int, source: int) -> Event:
    """Return HOW it was in words; None where that is not known."""
    names: tuple[Sequence[str | None], ...] = ((None, *KINDS[1:]), ACCESSES, SOURCES)
    return {
        field: words[number] if number < len(words) else None
        for field, words, number in zip(HOW, names, (kind, access, source), strict=True)
    }


def jsonl(trace: Trace, parts: Iterable[Part], file: IO[bytes]) -> None:
    """Write JSON lines."""
    rows = _Rows(trace)
    machine = _json_fields(rows.machine)
    file.write(_line("meta", trace.meta.started, msgspec.to_builtins(trace.meta)))
    for part in parts:
        if isinstance(part, list):
            for event in part:
                rows.known.learn(event)
            file.write(b"".join(msgspec.json.encode(rows.describe(event)) + b"\n" for event in part))
            continue
        file.write(
            "".join(
                f'{{"event":"fault","time":{time},{who},"tid":{tid},{where},"page":{page},{how},'
                f'"ip":{ip or "null"},"cpu":{cpu},{machine}}}\n'
                for time, tid, page, ip, cpu, who, where, how in rows.texts(part, _json_fields)
            ).encode()
        )
    if trace.done is not None:
        file.write(_line("done", trace.done.ended, msgspec.to_builtins(trace.done) | rows.machine))


def _line(event: str, time: int, fields: Event) -> bytes:
    return msgspec.json.encode({"event": event, "time": time, "source": "shmfs"} | fields) + b"\n"


def csv(trace: Trace, parts: Iterable[Part], file: IO[bytes]) -> None:
    """Write the faults as CSV with a heading (RFC 4180, but a line ends with a line feed)."""
    rows = _Rows(trace)
    machine = _csv_fields(rows.machine)
    file.write(",".join(COLUMNS).encode() + b"\n")
    for faults in split(parts, rows.known.learn):
        file.write(
            "".join(
                f"{time},{tid},{page},{ip or ''},{cpu},{who},{where},{how},{machine}\n"
                for time, tid, page, ip, cpu, who, where, how in rows.texts(faults, _csv_fields)
            ).encode()
        )


def _json_fields(row: Event) -> str:
    return msgspec.json.encode(row)[1:-1].decode()


def _csv_fields(row: Event) -> str:
    text = io.StringIO(newline="")
    csv_writer(text, lineterminator="\r\n").writerow(row.values())  # it quotes what has a character of these
    return text.getvalue()[:-2]


def parquet(trace: Trace, parts: Iterable[Part], file: IO[bytes]) -> None:
    """Write the faults as Parquet, in groups of rows; its metadata have `Meta` as JSON, as "shmfs"."""
    arrow, arrow_parquet = import_arrow()
    rows, waiting = _Rows(trace), []
    text = {"command", "path", "device", *HOW, *MACHINE}
    types = {name: arrow.string() if name in text else arrow.int64() for name in COLUMNS}
    schema = arrow.schema(list(types.items()), metadata={"shmfs": msgspec.json.encode(trace.meta)})

    def table(faults: Faults) -> Any:
        columns = [arrow.array(faults[name].astype("i8"), mask=_missing(faults, name)) for name in PLAIN]
        for rows_, index in rows.tables(faults):
            at = arrow.array(index.astype("i8"))
            columns += [arrow.array([row[name] for row in rows_], types[name]).take(at) for name in rows_[0]]
        columns += [arrow.repeat(arrow.scalar(value), len(faults)) for value in rows.machine.values()]
        return arrow.Table.from_arrays(columns, schema=schema)

    with arrow_parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for faults in split(parts, rows.known.learn):
            waiting.append(table(faults))
            if sum(map(len, waiting)) >= GROUP:
                writer.write_table(arrow.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(arrow.concat_tables(waiting))


def _missing(faults: Faults, name: str) -> Any:
    return faults[name] == 0 if name == "ip" else None


def import_arrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet; raises ShmfsError where they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ShmfsError(
            "Parquet needs pyarrow, which is not installed: pip install 'shmfs[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet
