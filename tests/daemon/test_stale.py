"""Stale figures where people and programs read them, and what samples and records."""

import json
import time
from types import SimpleNamespace

import msgspec
import pytest

from shmfs.analysis.budgets import FIGURES as BUDGETS
from shmfs.analysis.budgets import Ended, Faults, parse
from shmfs.daemon.history import FIGURES
from shmfs.events.amounts import clock
from shmfs.events.records import Observations, Stale, stale
from shmfs.record import recorder as recorder_module
from shmfs.record.recorder import Recorder
from shmfs.record.recording import Recording as RealRecording
from shmfs.record.recording import Subject
from shmfs.record.sampler import Sampler
from shmfs.report.run_report import build, report_json
from shmfs.report.trace_report import TraceReport
from shmfs.tracefile.stream import open as open_trace
from tests.record.recording import START, Recording
from tests.report.test_html_extract import page_of
from tests.report.test_run_report import OBSERVATIONS, flat, make, segment, show, statistics
from tests.report.test_trace_report import section
from tests.report.test_trace_report import show as show_trace

SINCE = START + 5_000_000_000
AT = clock(SINCE)
HISTORY = Stale("history", ["resident", "peak_resident"], SINCE, "KeyError in allocate: 5")
REFUSALS = Stale("history", ["refused"], SINCE, "KeyError in refuse: 5")
SAMPLER = Stale("sampler", ["mapped_by", "shared", "sample"], SINCE, "OSError: no")
LOG = Stale("log", ["events"], SINCE, "RuntimeError in open: its writer failed: x")


def test_a_sentence_has_figures_time_observer_and_reason():
    assert HISTORY.sentence == (
        f"resident, peak resident: as of {AT}, stale since then, for the observer 'history' failed:"
        " KeyError in allocate: 5"
    )


def test_which_figures():
    assert stale([SAMPLER, HISTORY], "peak_resident", "size") is HISTORY
    assert stale([SAMPLER, HISTORY], "size") is None
    assert stale([], "size") is None


# ---- the report of `shmfs run`


def test_the_report_marks_what_is_stale():
    report = make(segment(), stale=[HISTORY], notes=[HISTORY.sentence, "another note"])
    assert report.stale == [HISTORY]
    by_source = {one.source: (one.exact, one.stale) for one in report.sources}
    assert by_source == {"fuse": (True, None), "mm": (False, SINCE), "pagemap": (False, None)}
    text = flat(show(report, width=200))
    assert text.count(HISTORY.sentence) == 1
    assert f"page-ins, creator: as of {AT} (fuse, mm)" in text
    assert "note another note" in text
    parsed = json.loads(report_json(report))
    assert parsed["stale"] == [msgspec.to_builtins(HISTORY)]
    assert {one["source"]: one["stale"] for one in parsed["sources"]}["mm"] == SINCE


def test_without_failures_the_report_is_as_before():
    report = make(segment())
    assert report.stale == []
    text = show(report)
    assert "stale" not in text
    assert "as of" not in text
    assert "page-ins, creator: exact (fuse, mm)" in flat(text)


def test_a_sampler_that_stopped_is_in_the_report():
    observations = msgspec.structs.replace(OBSERVATIONS, stale=SAMPLER)
    report = make(segment(), observations=observations)
    assert report.stale == [SAMPLER]
    text = flat(show(report, width=200))
    assert "160 samples every ~21 ms (pagemap)" in text
    assert f"none after {AT}" in text
    assert "creator: exact" in text


def test_no_size_is_enough_where_refusals_were_not_counted():
    assert make(segment()).enough == "37m"
    report = make(segment(), stale=[REFUSALS])
    assert report.enough is None
    assert "would have been enough" not in show(report)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits(width):
    text = show(make(segment(), stale=[HISTORY, LOG]), width=width)
    assert max(map(len, text.splitlines())) <= width


# ---- budgets


@pytest.mark.parametrize(
    ("budget", "figures"),
    [
        ("leak", FIGURES["unlink"]),
        ("leak", FIGURES["evict"]),
        ("leak", FIGURES["create"]),
        ("refused", FIGURES["refuse"]),
        ("refused>=0", FIGURES["refuse"]),
        ("segments>0", FIGURES["create"]),
        ("page_ins>0", FIGURES["page_in"]),
        ("lost>0", ("events",)),
        ("sigbus", recorder_module.FIGURES),
        ("refused", ("refusals",)),
    ],
)
def test_budgets_on_stale_figures_could_not_be_measured(budget, figures):
    failed = Stale("history", list(figures), SINCE, "KeyError in a hook: 5")
    for segments in ([], [segment(nlink=1, evicted=False)]):
        ended = Ended(0, statistics(*segments, stale=[failed]), Faults())
        said = parse(budget).broken(ended)
        assert said is not None
        assert "could not be measured" in said
        assert said.endswith(failed.sentence)


def test_budgets_on_other_figures_are_measured():
    ended = Ended(0, statistics(stale=[HISTORY], page_ins=7), Faults())
    for name in BUDGETS:
        assert parse(f"{name}<0").broken(ended) is None


def test_budgets_on_faults_where_recording_failed():
    failed = Faults(minor=3, seen=False, note="recording failed: OSError: x")
    said = parse("faults>100").broken(Ended(0, statistics(), failed))
    assert said == ("--fail-on faults>100: page faults could not be measured: recording failed: OSError: x")


# ---- traces


def trace_with(path, *failed):
    """A process that touches a segment which it made, and observers that fail in the end."""
    recording = Recording(path)
    process, segment = recording.process(100, "python3"), recording.segment(5, "/a")
    recording.create(5, "/a", 0.3, 100)
    recording.map(process, segment, 0.4)
    recording.touch(process, 100, segment, range(8), 0.5, 1)
    recording.event("sample", 2, "pagemap", segment=segment, process=process, pages=8, pss=1, uss=1)
    for one in failed:
        recording.event("stale", 5, "fuse", observer=one.observer, figures=one.figures, reason=one.reason)
    return recording


def write(path, *failed):
    recording = trace_with(path, *failed)
    recording.writer.close({"status": 0, "lost": 0})
    return path


def analysis_of(path):
    from shmfs.analysis.analysis import analyse

    with open_trace(path) as trace:
        return analyse(trace)


def test_a_trace_says_what_is_stale(tmp_path):
    path = write(tmp_path / "t", LOG, SAMPLER)
    found = analysis_of(path)
    assert found.stale == [LOG, SAMPLER]
    assert json.loads(msgspec.json.encode(found))["stale"][0]["observer"] == "log"
    text = show_trace(found, width=200)
    assert flat(text).count(LOG.sentence) == flat(text).count(SAMPLER.sentence) == 1
    assert f"fuse, as of {AT}" in section(text, "Lives")[0]
    assert "perf, exact" in text
    sources = {label: line.plain for label, line in TraceReport(found, 200).sources()}
    assert sources["pagemap"] == f"pages present, PSS, USS · as of {AT}"
    assert sources["fuse"].endswith(f" · as of {AT}")
    assert sources["perf"].endswith(" · exact")
    page = page_of(path)
    assert ("stale", LOG.sentence) in page.warnings
    assert all(label != "stale" for label, _ in page.facts)


def test_faults_of_a_recorder_that_failed(tmp_path):
    failed = Stale("recorder", recorder_module.FIGURES, SINCE, "recording failed: x")
    found = analysis_of(write(tmp_path / "t", failed))
    assert f"perf, as of {AT}" in show_trace(found)
    assert "perf, exact" not in show_trace(found)
    assert page_of(tmp_path / "t").fault_source == f"perf, as of {AT}"


def test_the_statistics_at_the_end_say_it_too(tmp_path):
    """Also of a log that could not write it by itself; what is said twice is one failure."""
    recording = trace_with(tmp_path / "t", HISTORY)
    known = statistics(stale=[HISTORY, LOG])
    recording.event("statistics", 6, "fuse", statistics=msgspec.to_builtins(known))
    recording.writer.close({"status": 0, "lost": 0})
    assert analysis_of(tmp_path / "t").stale == [HISTORY, LOG]


def test_a_failure_that_cannot_be_understood_is_counted(tmp_path):
    recording = trace_with(tmp_path / "t")
    recording.event("stale", 5, "fuse", observer=5)
    recording.writer.close({"status": 0, "lost": 0})
    found = analysis_of(tmp_path / "t")
    assert (found.stale, found.losses.unreadable) == ([], 1)


# ---- the sampler and the recorder


def test_a_sampler_that_fails_says_so_and_samples_no_more(monkeypatch):
    told = []
    sampler = Sampler("0:57", list, lambda **event: told.append(event))
    assert sampler.attempt()
    assert sampler.observations().stale is None
    calls = []

    def broken():
        calls.append(1)
        raise ValueError("boom")

    monkeypatch.setattr(sampler, "sample", broken)
    before = time.time_ns()
    assert not sampler.attempt()
    assert not sampler.attempt()
    assert len(calls) == 1
    seen = sampler.observations()
    assert seen.samples == 1
    assert seen.stale.observer == "sampler"
    assert seen.stale.reason == "ValueError: boom"
    assert before <= seen.stale.since <= time.time_ns()
    (event,) = told
    assert (event["event"], event["figures"]) == ("stale", seen.stale.figures)
    assert build(statistics(), seen, ["x"], 0, 1.0).stale == [seen.stale]
    assert isinstance(msgspec.json.decode(msgspec.json.encode(seen), type=Observations).stale, Stale)


def test_the_thread_of_a_sampler_that_fails_ends(monkeypatch):
    sampler = Sampler("0:57", list)
    monkeypatch.setattr(sampler, "sample", lambda: 1 / 0)
    sampler.start()
    sampler._thread.join(30)
    assert sampler.stop().stale.reason == "ZeroDivisionError: division by zero"


class Sink:
    """Keeps events."""

    def __init__(self):
        self.kept = []

    def event(self, event, source, **fields):
        self.kept.append({"event": event, "source": source, **fields})

    def faults(self, faults):
        pass

    def events(self, lines):
        pass

    def flush(self, age=0.0):
        pass


def test_a_recorder_that_fails_says_so_in_what_it_writes(monkeypatch):
    sink = Sink()
    recorder = Recorder(sink, None, (0, 57), "/mnt", everybody=False)
    monkeypatch.setattr(recorder, "_round", lambda **how: 1 / 0)
    recorder.start()
    assert not recorder.catch_up(60)
    recorder._thread.join(30)
    assert recorder.failure == "recording failed: ZeroDivisionError: division by zero"
    (event,) = [one for one in sink.kept if one["event"] == "stale"]
    assert (event["observer"], event["reason"]) == ("recorder", recorder.failure)
    assert event["figures"] == recorder.stale.figures
    assert {"fault", "deaths", "refusals"} <= set(event["figures"])
    began = time.monotonic()
    assert not recorder.catch_up(60)  # at once
    assert time.monotonic() - began < 30
    recorder.stop()


def test_a_recording_that_failed_measures_nothing_and_its_trace_says_so(tmp_path, monkeypatch):
    from shmfs.errors import ShmfsError

    monkeypatch.setattr("shmfs.record.recording._perf", lambda pid, device, **what: (None, ""))
    recording = RealRecording(str(tmp_path / "t"), Subject("/mnt", "0:57", "managed"), pid=1)
    monkeypatch.setattr(recording.recorder, "_round", lambda **how: 1 / 0)
    recording.start()
    recording.catch_up()
    counts = recording.counts()
    assert not counts.seen
    assert counts.note.startswith("recording failed: ZeroDivisionError")
    with pytest.raises(ShmfsError, match="recording failed"):
        recording.stop(0)
    (failed,) = analysis_of(tmp_path / "t").stale
    assert failed.observer == "recorder"


def test_a_live_display_says_what_is_stale(monkeypatch):
    from shmfs.client import control
    from shmfs.live import files, rows, summary
    from shmfs.live.model import Snapshot

    entry = SimpleNamespace(
        statistics=statistics(), mountpoint="/mnt", device="0:57", sandbox=False, reason=""
    )
    daemon = files.Daemon(entry)
    monkeypatch.setattr(control, "statistics", lambda mount: statistics(stale=[HISTORY]))
    listed = daemon.list()
    assert listed.notes == [HISTORY.sentence]
    snapshot = Snapshot(0.0, "/mnt", "0:57", "managed", sources=daemon.sources, notes=list(listed.notes))
    assert rows.footer(snapshot)[0].endswith(f"limits: as of {AT} (fuse, mm)")
    assert HISTORY.sentence in rows.footer(snapshot)
    narrow = "".join(text for line in summary.foot(snapshot, 60, 1) for text, _ in line)
    assert f"as of {AT}" in narrow
