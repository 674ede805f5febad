"""What the kernel puts into a perf ring, in bulk: samples as numpy arrays, everything else one by one.

Samples of one event have one size and one header word, and mostly come in long runs. See perf_event_open(2),
"MMAP layout", and the format files of the tracepoints.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmfs.tracing import probe, ranges
from shmfs.tracing.changes import Change, Exec, Exit, FailedCall, Fork, Mmap, Mremap, Signal, Written
from shmfs.tracing.perf import MARKED, Event

_LOST, _COMM, _EXIT, _FORK, _SAMPLE, _MMAP2 = 2, 3, 4, 7, 9, 10
_MISC_COMM_EXEC = 1 << 13
_HEADER = np.uint64(0xFFFF_0000_FFFF_FFFF)  # without misc, which says user or kernel


def _layout(size: int, fields: Mapping[str, tuple[Any, int]]) -> np.dtype[np.void]:
    """The layout of a sample of `size` bytes; `fields` has types and offsets by name."""
    kinds, offsets = zip(*fields.values(), strict=True)
    return np.dtype({"names": list(fields), "formats": kinds, "offsets": offsets, "itemsize": size})


_SOFTWARE_SAMPLES = {
    size: _layout(
        size,
        {"id": ("<u8", 8), "ip": ("<u8", 16), "pid": ("<u4", 24), "tid": ("<u4", 28), "time": ("<u8", 32)}
        | {"address": ("<u8", 40), "mark": ("<u8", size - 8)},
    )
    for size in (56, 72)  # alone, and beside tracepoints
}
_TRACEPOINT = {"id": ("<u8", 8), "pid": ("<u4", 16), "tid": ("<u4", 20), "time": ("<u8", 24)}
_RAW = 36
"""Where the raw data of a tracepoint starts: 8 bytes that all have, then the fields of its own."""
_FAULT_SAMPLE = _layout(72, _TRACEPOINT | {"address": ("<u8", 44), "ip": ("<u8", 52), "error": ("<u8", 60)})
_AROUND_SAMPLE = _layout(80, _TRACEPOINT | {"inode": ("<u8", 44), "first": ("<u8", 60), "last": ("<u8", 68)})
# Behind the raw data of signal_deliver, which ends at byte 80: the ABI (0: none) and the instruction pointer.
_DELIVER_SAMPLE = _layout(96, _TRACEPOINT | {"handler": ("<u8", 60), "ip": ("<u8", 88)})
_SIGNAL_SAMPLE = _layout(
    (_RAW + probe.RECORD_BYTES + 7) // 8 * 8,
    _TRACEPOINT | {name: (kind, _RAW + offset) for name, (kind, offset) in probe.RECORD.items()},
)
_TRACEPOINT_SAMPLES = {Event.AROUND: _AROUND_SAMPLE, Event.DELIVER: _DELIVER_SAMPLE}
_PLACELESS = (Event.SIGBUS, Event.UNCOUNTED, Event.DELIVER, Event.RETURN)

Column = NDArray[Any]


class Samples(NamedTuple):
    """Faults, their ends, signals, or the pages mapped around faults: a column each.

    Times are those of CLOCK_MONOTONIC in nanoseconds. AROUND has `ranges` as addresses, and inodes as `ip`.
    DELIVER has the instruction that its thread was at as `ip`; 0 is not known.
    """

    time: Column
    address: Column
    ip: Column
    pid: Column
    tid: Column
    event: Column
    access: Column
    """READ, WRITE or EXECUTE of a fault, 0 where it is not known; of DELIVER 1 if a handler runs then."""
    cpu: Column

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.time)

    def take(self, which: Column | slice) -> "Samples":
        """Some of them."""
        return Samples(*(column[which] for column in self))


def in_order(parts: list[Samples]) -> Samples:
    """Put several together, by time."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else _NONE
    samples = Samples(*columns)
    times = samples.time
    return samples if (times[1:] >= times[:-1]).all() else samples.take(np.argsort(times, kind="stable"))


def grouped(keys: NDArray[np.uint32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The indexes of equal keys beside each other, in order, and where in them each key begins.

    For pids and tids: two bytes mostly tell them apart, and sort much faster.
    """
    if not len(keys):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    low = keys.min()
    near = int(keys.max()) - int(low) < 1 << 16
    order = np.argsort((keys - low).astype(np.uint16) if near else keys, kind="stable")
    known = keys[order]
    return order, np.flatnonzero(np.concatenate(([True], known[1:] != known[:-1])))


_NONE: list[Column] = [np.zeros(0, kind) for kind in ("<u8", "<u8", "<u8", "<u4", "<u4", "u1", "u1", "u1")]

READ, WRITE, EXECUTE = 1, 2, 3
_SIG_IGN = 1  # and SIG_DFL is 0
_PF_WRITE, _PF_INSTR = 2, 16  # arch/x86/include/asm/trap_pf.h


@dataclass
class Decoded:
    """What a ring held."""

    samples: list[Samples] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    lost: int = 0
    signals: list[Signal] = field(default_factory=list)
    failed_calls: list[FailedCall] = field(default_factory=list)


def decode(data: bytes, events: Mapping[int, Event], cpu: int) -> Decoded:
    """Decode whole records; `events` says what the identifiers in samples stand for."""
    found = Decoded()
    words = np.frombuffer(data, "<u8")
    view = memoryview(data)
    runs: dict[int, list[memoryview]] = {}
    place = 0
    while place < len(words):
        header = int(words[place])
        size = header >> 51
        if (header & 0xFFFF_FFFF) != _SAMPLE:
            _other(data[place * 8 : (place + size) * 8], header, found)
            place += size
            continue
        end = place + _run(words, place, size) * size
        runs.setdefault(size * 8, []).append(view[place * 8 : end * 8])
        place = end
    for size, several in runs.items():
        _samples(several[0] if len(several) == 1 else b"".join(several), size, events, cpu, found)
    return found


def _run(words: NDArray[np.uint64], place: int, size: int) -> int:
    """How many records from here on have the same header, but for what says user or kernel."""
    wanted = words[place] & _HEADER
    rows, step = 1, 64
    while (end := min(rows + step, (len(words) - place) // size)) > rows:
        same = (words[place + rows * size : place + end * size : size] & _HEADER) == wanted
        if not same.all():
            return rows + int(same.argmin())
        rows, step = end, step * 4
    return rows


def _samples(
    chunk: bytes | memoryview, size: int, events: Mapping[int, Event], cpu: int, found: Decoded
) -> None:
    """Sort samples of one size by what they are of: mostly all of one event."""
    raw = np.frombuffer(chunk, np.dtype((np.void, size)))  # whole, for a copy of some has no more than fields
    identifiers = np.frombuffer(chunk, "<u8")[1 :: size // 8]
    while len(raw):
        same = identifiers == identifiers[0]
        event = events.get(int(identifiers[0]))
        rows = raw if same.all() else raw[same]
        raw, identifiers = raw[~same], identifiers[~same]
        if event is Event.MREMAP:
            found.changes.extend(_mremap(row.tobytes()) for row in rows)
        elif event is Event.SIGNAL:
            _signals(rows.view(_fitting(_SIGNAL_SAMPLE, size)), found)
        elif event is not None:
            kind = _TRACEPOINT_SAMPLES.get(event, _FAULT_SAMPLE)
            found.samples.append(_columns(rows.view(_fitting(kind, size)), event, cpu, software=False))
        elif size in _SOFTWARE_SAMPLES:
            _software(rows.view(_SOFTWARE_SAMPLES[size]), cpu, found)


def _software(raw: NDArray[np.void], cpu: int, found: Decoded) -> None:
    marks = np.minimum(raw["mark"], len(MARKED) - 1)
    for mark, event in enumerate(MARKED):
        rows = raw[marks == mark]
        if len(rows):
            found.samples.append(_columns(rows, event, cpu, software=True))


def _columns(raw: NDArray[np.void], event: Event, cpu: int, *, software: bool) -> Samples:
    def column(name: str) -> Column:
        return np.ascontiguousarray(raw[name])

    def same(value: int) -> Column:
        return np.full(len(raw), value, np.uint8)

    if event in _PLACELESS:
        address = ip = np.zeros(len(raw), "<u8")
        if "ip" in (raw.dtype.names or ()) and event is Event.DELIVER:
            ip = column("ip")
    elif event is Event.AROUND:
        address, ip = ranges.packed(column("first"), column("last")), column("inode")
    else:
        address, ip = column("address"), column("ip")
    return Samples(
        column("time"),
        address,
        ip,
        column("pid"),
        column("tid"),
        same(event),
        _flags(raw, event, software=software),
        same(min(cpu, 255)),
    )


def _flags(raw: NDArray[np.void], event: Event, *, software: bool) -> Column:
    if event is Event.FAULT and not software:
        return _access(raw["error"])
    if event is Event.DELIVER:
        return (raw["handler"] > _SIG_IGN).astype(np.uint8)
    return np.zeros(len(raw), np.uint8)


def _fitting(kind: np.dtype[np.void], size: int) -> np.dtype[np.void]:
    """The same fields in a record of another size; those beyond its end are not read."""
    fields = (kind.fields or {}).items()
    return _layout(size, {name: at[:2] for name, at in fields if at[1] + at[0].itemsize <= size})


def _access(errors: Column) -> Column:
    bits = errors.astype(np.uint8) & (_PF_WRITE | _PF_INSTR)
    return np.take(_ACCESS, bits)


_ACCESS = np.full(32, READ, np.uint8)
_ACCESS[_PF_WRITE] = WRITE
_ACCESS[[_PF_INSTR, _PF_INSTR | _PF_WRITE]] = EXECUTE


_TP = struct.Struct("<8xQIIQ")  # header, identifier, pid, tid, time
_MMAP2_HEAD = struct.Struct("<8xIIQQQIIQQII")
_TASK = struct.Struct("<8xIIIIQ")  # pid, ppid, tid, ptid, time
_SAMPLE_ID = struct.Struct("<IIQQ")  # pid, tid, time, identifier


def _mremap(record: bytes) -> Mremap:
    _, pid, tid, time = _TP.unpack_from(record)
    # Raw data: 8 bytes that all have, the number of the call (padded to 8), then arguments or the result.
    values = struct.unpack_from(f"<{(len(record) - 52) // 8}Q", record, 52)
    return (
        Mremap(time, pid, tid, values[:5], None)
        if len(values) >= 5
        else Mremap(time, pid, tid, (), values[0])
    )


_BY_TIMERS = range(
    -5, -1
)  # SI_SIGIO, SI_ASYNCIO, SI_MESGQ, SI_TIMER: whoever runs just then did not send them


def _signals(rows: NDArray[np.void], found: Decoded) -> None:
    for row in rows:
        number, code = int(row["number"]), int(row["code"])
        time, pid, tid, call = (int(row[name]) for name in ("time", "pid", "tid", "call"))
        arguments = tuple(row["arguments"].tolist())
        if number == 0:
            written = _written(row)
            limit = 0 if written else int(row["limit"])
            found.failed_calls.append(FailedCall(time, pid, tid, call, arguments, -code, written, limit))
            continue
        sender = pid if code <= 0 and code not in _BY_TIMERS else 0
        if row["target_tid"]:
            known = row["target_tid"] != probe.NOT_KNOWN
            pid, tid = (int(row[name]) if known else 0 for name in ("target_pid", "target_tid"))
        found.signals.append(
            Signal(time, pid, tid, number, code, int(row["address"]), sender, call, arguments, _written(row))
        )


def _written(row: np.void) -> Written | None:
    inode, device, limit = (int(row[name]) for name in ("inode", "device", "limit"))
    return Written((device >> 20, device & 0xF_FFFF), inode, limit) if inode else None


_SIGBUS, _BUS_MCEERR_AO = 7, 5


def faults_of(signals: list[Signal]) -> list[Samples]:
    """Return samples of SIGBUS for the signals that a fault of their thread caused, in the order of time.

    BUS_MCEERR_AO is of a broken page that the thread has not touched.
    """
    rows = [
        (one.time, 0, 0, one.pid, one.tid, Event.SIGBUS, 0, 0)
        for one in signals
        if one.number == _SIGBUS and one.code > 0 and one.code != _BUS_MCEERR_AO
    ]
    if not rows:
        return []
    columns = zip(zip(*rows, strict=True), _NONE, strict=True)
    return [Samples(*(np.array(column, known.dtype) for column, known in columns))]


def _other(record: bytes, header: int, found: Decoded) -> None:
    kind, misc = header & 0xFFFF_FFFF, header >> 32 & 0xFFFF
    if kind == _MMAP2:
        pid, _, address, length, offset, major, minor, inode, _, protection, flags = _MMAP2_HEAD.unpack_from(
            record
        )
        time = _SAMPLE_ID.unpack_from(record, len(record) - _SAMPLE_ID.size)[2]
        path = record[_MMAP2_HEAD.size : -_SAMPLE_ID.size].split(b"\0", 1)[0]
        found.changes.append(
            Mmap(time, pid, address, length, offset, (major, minor), inode, protection, flags, path)
        )
    elif kind == _FORK:
        pid, parent, tid, _, time = _TASK.unpack_from(record)
        found.changes.append(Fork(time, pid, parent, tid))
    elif kind == _EXIT:
        pid, _, tid, _, time = _TASK.unpack_from(record)
        found.changes.append(Exit(time, pid, tid))
    elif kind == _COMM and misc & _MISC_COMM_EXEC:
        pid, _, time, _ = _SAMPLE_ID.unpack_from(record, len(record) - _SAMPLE_ID.size)
        found.changes.append(Exec(time, pid, record[16 : -_SAMPLE_ID.size].split(b"\0", 1)[0]))
    elif kind == _LOST:
        found.lost += int.from_bytes(record[16:24], "little")
