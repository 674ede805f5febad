"""A trace for Perfetto says what the trace says: by Perfetto's own classes, and asked in its SQL."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackDescriptor, TrackEvent

import shmfs.trace
from shmfs.export import perfetto
from shmfs.export.perfetto import faults as faults_module
from shmfs.export.perfetto import story as story_module
from shmfs.export.perfetto import tracks as tracks_module
from shmfs.tracefile.stream import FAULT
from tests.record.recording import MIB, SECOND, START, Recording


class Event(NamedTuple):
    time: int
    kind: str
    track: TrackDescriptor
    name: str
    arguments: dict[str, Any]
    out: list[int]
    into: list[int]
    value: float


class Decoded:
    """A file as Perfetto reads it: with the texts for their numbers, and the tracks for theirs."""

    def __init__(self, data: bytes) -> None:
        trace = Trace()
        trace.ParseFromString(data)
        assert trace.IsInitialized()
        self.packets = list(trace.packet)
        self.tracks: dict[int, TrackDescriptor] = {}
        self.texts: dict[tuple[str, int], str] = {}
        self.events = list(self._events())

    def _events(self) -> Iterator[Event]:
        for packet in self.packets:
            assert packet.trusted_packet_sequence_id == 1
            for field, entries in packet.interned_data.ListFields():
                for entry in entries:
                    text = entry.str.decode() if hasattr(entry, "str") else entry.name
                    self.texts[field.name, entry.iid] = text
            if packet.HasField("track_descriptor"):
                assert packet.track_descriptor.uuid not in self.tracks
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            if packet.HasField("track_event"):
                yield self._event(packet.timestamp, packet.track_event)

    def _event(self, time: int, event: TrackEvent) -> Event:
        counter = event.WhichOneof("counter_value_field")
        return Event(
            time,
            TrackEvent.Type.Name(event.type).removeprefix("TYPE_"),
            self.tracks[event.track_uuid],
            self.texts["event_names", event.name_iid] if event.name_iid else "",
            {
                self.texts["debug_annotation_names", one.name_iid]: self._value(one)
                for one in event.debug_annotations
            },
            list(event.flow_ids),
            list(event.terminating_flow_ids),
            getattr(event, counter) if counter else 0,
        )

    def _value(self, argument: Any) -> Any:
        if argument.array_values:
            return [self._value(one) for one in argument.array_values]
        if argument.string_value_iid:
            return self.texts["debug_annotation_string_values", argument.string_value_iid]
        return getattr(argument, argument.WhichOneof("value"))

    def path(self, track: TrackDescriptor) -> str:
        """The names from the outermost track on."""
        above = self.path(self.tracks[track.parent_uuid]) + " / " if track.parent_uuid else ""
        if track.HasField("process"):
            return f"{above}{track.process.process_name} {track.process.pid}"
        if track.HasField("thread"):
            return f"{above}thread {track.thread.tid}"
        return above + track.name

    def on(self, path: str) -> list[Event]:
        return [event for event in self.events if self.path(event.track) == path]

    def faults(self) -> list[Event]:
        sources = ("perf", "filemap")
        return [
            event
            for event in self.events
            if event.arguments.get("source") in sources and event.name != "mmap"
        ]


def export(path: Path) -> tuple[Decoded, list[str], bytes]:
    file = io.BytesIO()
    with shmfs.trace.open(path) as trace:
        notes = perfetto.write(trace, trace.chunks(), file)
    return Decoded(file.getvalue()), notes, file.getvalue()


FAULTS = st.lists(
    st.tuples(
        st.integers(0, SECOND).map(lambda ns: START + ns),
        st.integers(0, 5) | st.just(2**40),
        st.sampled_from([0, 1, 2**47]),
        st.integers(0, 3),
        st.integers(0, 4),
        st.sampled_from([100, 101, 2**32 - 1, 0]),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 1),
        st.integers(0, 255),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows=FAULTS, cut=st.integers(0, 40))
def test_every_fault(tmp_path_factory, rows, cut):
    recording = Recording(tmp_path_factory.mktemp("trace") / "trace")
    for number in range(3):
        recording.segment(number + 2, f"/s{number}")
        recording.process(100 + number // 2, f"c{number}")  # two have the same pid
    array = np.array(rows, FAULT)
    recording.writer.faults(array[:cut])
    recording.writer.flush()
    recording.writer.faults(array[cut:])
    decoded, notes, _ = export(recording.close())
    assert notes == []
    told = decoded.faults()
    names = ("unknown", "minor", "major", "failed")
    for event, (time, page, ip, segment, _, tid, kind, access, _, _) in zip(told, rows, strict=True):
        assert (event.time, event.kind, event.arguments["page"]) == (time, "INSTANT", page)
        assert event.arguments.get("ip", 0) == ip
        assert event.arguments.get("segment") == (f"/s{segment}" if segment < 3 else None)
        assert event.arguments.get("kind", "unknown") == (names[kind] if kind < 4 else "unknown")
        assert event.arguments.get("access") == {1: "read", 2: "write", 3: "execute"}.get(access)
        if 0 < tid < 2**31 and event.track.HasField("thread"):
            assert event.track.thread.tid == tid
    by_process = {event.track.parent_uuid for event in told}
    assert len(by_process) == len({row[4] for row in rows})
    assert arrows(told) == expected_arrows(rows)


def arrows(events: list[Event]) -> set[tuple[int, int]]:
    begins = {number: at for at, event in enumerate(events) for number in event.out}
    ends = {number: at for at, event in enumerate(events) for number in event.into}
    assert begins.keys() == ends.keys()
    assert len(begins) == sum(len(event.out) for event in events)
    return {(begins[number], ends[number]) for number in begins}


def expected_arrows(rows: list[tuple[int, ...]]) -> set[tuple[int, int]]:
    """By the definition: from the first touch of a page to the first by each other process."""
    pages: dict[tuple[int, int], dict[int, int]] = {}
    for at in sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][4], at)):
        _, page, _, segment, process, _, kind, _, source, _ = rows[at]
        if kind != 3 and source == 0:
            pages.setdefault((segment, page), {}).setdefault(process, at)
    return {
        (first, at) for touches in pages.values() for first, *others in [touches.values()] for at in others
    }


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """A producer and a consumer, and one that dies."""
    one = Recording(tmp_path / "story.shmtrace", command=["demo", "a b"])
    producer = one.process(100, "producer")
    consumer = one.process(101, "consumer", 0.1, producer)
    one.create(7, "/frames", 0.2, 100)
    one.told("resize", 0.25, 7, "/frames", old_size=0, size=MIB, pid=100)
    frames = one.segment(7, "/frames", 0.3)
    one.map(producer, frames, 0.3)
    one.map(consumer, frames, 0.4)
    one.told("allocate", 0.5, 7, "/frames", page=0, pages=10)
    one.touch(producer, 100, frames, range(10), 0.5, 0.6)
    one.touch(consumer, 105, frames, range(5), 0.7, 0.8, access=1)
    one.event("sample", 0.8, "pagemap", segment=frames, process=consumer, pages=5, pss=3, uss=0)
    one.told("refuse", 0.85, 7, "/frames", page=11, pages=1, limit="size")
    one.faults([(0.85, 11, frames, consumer, 105, 3, 2, 0)])
    holders = [{"path": "/frames", "bytes": 40960, "processes": [producer, 99]}]
    one.event("sigbus", 0.86, "shmfs", process=consumer, tid=105, segment=frames, page=11, path="/frames",
              reason="the mount is full", limit=64 * MIB, holders=holders, enough="65m")  # fmt: skip
    one.exit(consumer, 0.9, 135)
    one.told("unlink", 1.0, 7, "/frames", nlink=0, pid=100)
    one.event("lost", 1.0, "perf", of="perf", count=3)
    one.told("evict", 1.2, 7, "/frames")
    return one.close(status=135)


def test_a_story(story: Path) -> None:
    decoded, notes, _ = export(story)
    assert notes == []
    assert {decoded.path(track) for track in decoded.tracks.values()} == {
        "shmfs",
        "shmfs / mount /dev/shm",
        "shmfs / mount /dev/shm / used",
        "shmfs / mount /dev/shm / limit",
        "shmfs / segments",
        "shmfs / segments / /frames",
        "shmfs / segments / /frames / resident",
        "shmfs / segments / /frames / faults",
        "shmfs / segments / /frames / present in consumer (101), sampled",
        "producer 100",
        "producer 100 / thread 100",
        "producer 100 / faults",
        "consumer 101",
        "consumer 101 / thread 105",
        "consumer 101 / faults",
    }
    segment = [(at(event), event.kind, event.name) for event in decoded.on("shmfs / segments / /frames")]
    assert segment == [
        (0.2, "SLICE_BEGIN", "/frames"),
        (0.2, "INSTANT", "create"),
        (0.2, "INSTANT", "open"),
        (0.25, "INSTANT", "resize"),
        (0.3, "INSTANT", "mmap"),
        (0.4, "INSTANT", "mmap"),
        (0.85, "INSTANT", "refuse"),
        (1.0, "INSTANT", "unlink"),
        (1.2, "INSTANT", "evict"),
        (1.2, "SLICE_END", ""),
    ]
    used = [(at(event), event.value) for event in decoded.on("shmfs / mount /dev/shm / used")]
    assert used == [(0.5, 40960), (1.2, 0)]
    limit = [event.value for event in decoded.on("shmfs / mount /dev/shm / limit")]
    assert limit == [64 * MIB] * 2
    lives = [(at(event), event.kind, event.name) for event in decoded.on("consumer 101")]
    assert lives == [(0.1, "SLICE_BEGIN", "consumer"), (0.9, "INSTANT", "exit"), (0.9, "SLICE_END", "")]
    assert decoded.on("consumer 101")[0].arguments["parent pid"] == 100
    assert decoded.on("consumer 101")[1].arguments == {"status": 135}
    assert [event.kind for event in decoded.on("producer 100")] == ["SLICE_BEGIN"]  # it has not ended
    (death,) = [event for event in decoded.on("consumer 101 / thread 105") if event.name == "SIGBUS"]
    assert death.arguments["reason"] == "the mount is full"
    assert death.arguments["size= that is enough"] == "65m"
    assert death.arguments["holders"] == ["/frames: 40960 bytes, held by producer (100), process 99"]
    recording = {event.name: event.arguments for event in decoded.on("shmfs")}
    assert recording["recording"]["command"] == "demo a b"
    assert recording["3 records of perf were lost"] == {"count": 3}
    assert recording["end of the recording"]["status"] == 135


def at(event: Event) -> float:
    return round((event.time - START) / SECOND, 6)


def test_faults_a_second(story: Path) -> None:
    """The area below the counters is the number of faults."""
    decoded, _, _ = export(story)
    for path, count in (
        ("producer 100 / faults", 10),
        ("consumer 101 / faults", 6),
        ("shmfs / segments / /frames / faults", 16),
    ):
        values = [(event.time, event.value) for event in decoded.on(path)]
        area = sum((after - time) * value for (time, value), (after, _) in pairwise(values))
        assert area / SECOND == pytest.approx(count)
        assert values[-1][1] == 0


def test_nothing(tmp_path: Path) -> None:
    decoded, notes, _ = export(Recording(tmp_path / "trace").close(status=0))
    assert notes == []
    assert [event.name for event in decoded.events] == ["recording", "end of the recording"]
    decoded, notes, _ = export(Recording(tmp_path / "cut").cut())
    assert [event.name for event in decoded.events] == ["recording"]


def test_names_that_would_deceive(tmp_path: Path) -> None:
    one = Recording(tmp_path / "trace", command=["\x1b[31m"])
    process = one.process(100, "evil\x1b[2J\x00\n")
    segment = one.segment(
        2, "/\x07<b>\u202e\udcff".encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    )
    one.touch(process, 100, segment, range(2), 0.1, 0.2)
    decoded, _, data = export(one.close())
    for bad in (b"\x1b", b"\x00\n", "\u202e".encode()):
        assert bad not in b"".join(text.encode() for text in decoded.texts.values())
        assert bad not in "".join(track.name for track in decoded.tracks.values()).encode()
    assert "<b>" in decoded.faults()[0].arguments["segment"]
    assert data


def test_what_is_not_as_it_should_be(tmp_path: Path) -> None:
    one = Recording(tmp_path / "trace")
    one.writer.event("exec", "perf", time=START, process="x", command=3)
    one.writer.event("process", "perf", time=START, process=0)
    one.writer.event("create", "fuse", time=START, inode=1)
    one.writer.event("finish", "fuse", time=START, inode=1)
    _, notes, _ = export(one.close())
    assert notes == ["3 events are not as they should be, and were left out"]


def test_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond some count only sums are written; nothing is lost in them."""
    monkeypatch.setattr(faults_module, "FEW", 100)
    one = Recording(tmp_path / "trace")
    processes = [one.process(100 + number, f"c{number}") for number in range(3)]
    segment = one.segment(2, "/a")
    for number in processes:
        one.touch(number, 100 + number, segment, range(400), number, number + 2, kind=1 + number % 2)
    one.faults([(2.5, 7, segment, 0, 100, 3, 2, 0), (2.6, 8, segment, 1, 101, 1, 1, 1)])
    path = one.close()
    decoded, notes, _ = export(path)
    assert len(notes) == 1
    assert notes[0].startswith("1,202 faults are too many to look at one by one")
    assert notes[0] in [event.name for event in decoded.on("shmfs")]
    sums: Counter[str] = Counter()
    for process in range(3):
        own = decoded.on(f"c{process} {100 + process} / thread {100 + process}")
        slices = [event for event in own if event.name == "faults"]
        ends = [event for event in own if event.kind == "SLICE_END"]
        assert len(slices) == len(ends) > 10
        times = [time for begin, end in zip(slices, ends, strict=True) for time in (begin.time, end.time)]
        assert times == sorted(times)
        for event in slices:
            sums.update(event.arguments)
    assert sums == {"faults": 1201, "minor": 800, "major": 400, "failed": 1, "reads": 0, "writes": 1201,
                    "executes": 0, "of unknown kind": 0, "pages mapped around": 1}  # fmt: skip
    kinds = Counter(event.arguments["kind"] for event in decoded.faults())
    assert kinds == {"major": 400, "failed": 1, "minor": 2}
    assert len(arrows(decoded.faults())) == 2


def test_little_that_would_be_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many segments share a track, counters are thinned out, many events are left out: it is said."""
    monkeypatch.setattr(tracks_module, "SEGMENTS", 3)
    monkeypatch.setattr(story_module, "ROOM", 4)
    monkeypatch.setattr(perfetto, "POINTS", 10)
    one = Recording(tmp_path / "trace")
    process = one.process(100, "c")
    for number in range(6):
        one.map(process, one.segment(number + 2, f"/{number}"), 0.1)
    for step in range(1000):
        pages = 900 if step == 555 else step % 7
        one.told("usage", step / 1000, 2, "/0", size=MIB, pages=pages)
    decoded, notes, _ = export(one.close())
    assert "2 events of the kinds" in notes[0]
    assert notes[1].startswith("3 segments beyond the first")
    assert "values of counters were left out" in notes[2]
    values = [event.value for event in decoded.on("shmfs / segments / /0 / resident")]
    assert len(values) < 60
    assert max(values) == 900
    assert values[-1] == 999 % 7
    assert len(decoded.on("shmfs / segments / further segments")) <= 1


@pytest.fixture(scope="session")
def trace_processor() -> str:
    """The path of Perfetto's trace processor."""
    named = os.environ.get("TRACE_PROCESSOR_SHELL") or shutil.which("trace_processor_shell")
    if named:
        return named
    from perfetto.trace_processor.platform import PlatformDelegate

    try:
        return PlatformDelegate().get_shell_path(bin_path=None)
    except Exception as error:
        pytest.skip(f"trace_processor_shell is neither on PATH nor can it be downloaded here: {error}")


def test_the_trace_processor_reads_it(story: Path, tmp_path: Path, trace_processor: str) -> None:
    from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

    file = tmp_path / "story.pftrace"
    file.write_bytes(export(story)[2])
    with TraceProcessor(str(file), config=TraceProcessorConfig(bin_path=trace_processor)) as processor:

        def ask(query: str) -> list[tuple[Any, ...]]:
            return [tuple(row.__dict__.values()) for row in processor.query(query)]

        assert ask("select count(*) from slice where name = 'minor fault'") == [(15,)]
        assert ask("select pid, name from process where pid in (100, 101) order by pid") == [
            (100, "producer"),
            (101, "consumer"),
        ]
        assert ask("select count(*) from flow") == [(5,)]
        assert ask(
            "select t.tid, min(s.ts) from slice s join thread_track k on s.track_id = k.id"
            " join thread t using (utid) where s.name = 'minor fault' group by 1 order by 1"
        ) == [(100, START + SECOND // 2), (105, START + 7 * SECOND // 10)]
        assert ask(
            "select max(value) from counter c join track t on c.track_id = t.id where t.name = 'used'"
        ) == [(40960.0,)]
        assert ask("select value from stats where severity = 'error' and value > 0") == []
        assert ask(
            "select dur from slice s join process_track t on s.track_id = t.id where s.name = 'consumer'"
        ) == [(8 * SECOND // 10,)]
