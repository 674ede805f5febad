"""What a trace says: reads it once, from the first record to the last, and returns `findings.Analysis`.

Memory is bounded by what happened, not by how often: a fault on the same page again costs nothing.
"""

from collections import defaultdict
from collections.abc import Callable

from shmfs.analysis.findings import (
    Analysis,
    FaultCount,
    Losses,
    Sizing,
    TimeLine,
    TracedProcess,
    TracedSegment,
)
from shmfs.analysis.lifecycle import Lifecycle
from shmfs.analysis.sizing import sizing
from shmfs.analysis.tally import SegmentTally, Tally, batches
from shmfs.tracefile.stream import Event, Source, Trace

_OF_META = (
    *("version", "host", "kernel", "command", "mount", "device", "store", "options", "size_limit"),
    *("page_size", "started"),
)
"""Fields of `Meta` that an analysis has too."""


def analyse(
    trace: Trace, tally: Tally | None = None, listen: Callable[[Event], None] | None = None
) -> Analysis:
    """Read the whole trace; `tally` counts the faults, and `listen` hears every event."""
    meta, done = trace.meta, trace.done
    life, tally = Lifecycle(meta.page_size, meta.device), tally or Tally()
    for event in trace.events():
        life.take(event)
        if listen is not None:
            listen(event)
    for faults in batches(trace.faults()):
        tally.add(faults)
    timeline, counted = tally.timeline(), tally.segments()
    for number in counted:
        life.segment(number)
    segments = life.finish(tally.threads)
    for segment in segments:
        if segment.segment in counted:
            _add(segment, counted[segment.segment])
    for use in (use for segment in segments for use in segment.used_by):
        life.process(use.process)
    _add_processes(segments, life.processes)
    segments.sort(key=lambda one: (-one.faults.total, -(one.peak_resident or 0), one.seen, one.path))
    return Analysis(
        path=trace.path,
        **{name: getattr(meta, name) for name in _OF_META},
        ended=done.ended if done else None,
        duration=done.duration if done else _seen_for(meta.started, timeline, life),
        status=done.status if done else None,
        complete=trace.complete,
        damage=trace.damage,
        faults=_sum([segment.faults for segment in segments]),
        timeline=timeline,
        segments=segments,
        processes=[life.processes[number] for number in sorted(life.processes)],
        deaths=sorted(life.deaths, key=lambda death: death.time),
        refusals=life.refusals(),
        losses=_losses(trace, life),
        sizing=_sizing(segments, life, trace),
        sources=_sources(trace, life, segments),
        stale=life.stale,
    )


def killed_by(status: int | None) -> int | None:
    """Return the signal that ended a process with this status, in either way of saying it."""
    if status is None or -1 < status <= 128:
        return None
    return -status if status < 0 else status - 128


def _add(segment: TracedSegment, tally: SegmentTally) -> None:
    """Give a segment the faults that were counted on it."""
    segment.faults, segment.pages, segment.timeline = tally.faults, tally.pages, tally.timeline
    segment.sharing = tally.sharing
    segment.shared = sum(pages for processes, pages in tally.sharing.items() if processes > 1)
    uses = {use.process: use for use in segment.used_by}
    for counted in tally.uses:
        use = uses.setdefault(counted.process, counted)
        use.faults, use.pages = counted.faults, counted.pages
        use.first, use.last = counted.first, counted.last
    segment.used_by = sorted(uses.values(), key=lambda use: (-use.faults.total, use.process))
    first = min(((use.first, use.process) for use in segment.used_by if use.first is not None), default=None)
    segment.first_toucher = first[1] if first else None


def _add_processes(segments: list[TracedSegment], processes: dict[int, TracedProcess]) -> None:
    """Give the processes what they did, and the segments those that died with them."""
    counts: dict[int, list[FaultCount]] = defaultdict(list)
    for segment in segments:
        ends = [time for time in (segment.unlinked, segment.evicted) if time is not None]
        for use in segment.used_by:
            process = processes[use.process]
            counts[use.process].append(use.faults)
            process.pages += use.pages
            if segment.segment is not None:
                process.segments.append(segment.segment)
            ended, had = process.ended, use.mapped or use.present or use.faults.total
            if had and ended is not None and killed_by(process.status) and all(ended < end for end in ends):
                segment.died_with_it.append(use.process)
    for number, several in counts.items():
        processes[number].faults = _sum(several)


def _sum(counts: list[FaultCount]) -> FaultCount:
    total = FaultCount()
    for field in FaultCount.__struct_fields__:
        setattr(total, field, sum(getattr(count, field) for count in counts))
    return total


def _seen_for(started: int, timeline: TimeLine, life: Lifecycle) -> float | None:
    """Return the seconds until the last record, of a trace without an end."""
    last = max(life.last, timeline.start + len(timeline.counts) * timeline.width if timeline.counts else 0)
    return (last - started) / 1e9 if last else None


def _losses(trace: Trace, life: Lifecycle) -> Losses:
    records = dict(life.lost)
    done = trace.done
    if life.statistics and life.statistics.lost_records and "fuse" not in records:
        records["fuse"] = life.statistics.lost_records
    if done and done.lost > sum(records.values()):
        records["recorder"] = done.lost - sum(records.values())
    processes = (life.processes[number] for number in life.unfollowed if number in life.processes)
    return Losses(
        records,
        done.dropped if done else 0,
        done.dropped_events if done else 0,
        life.unreadable,
        [f"{process.command} (pid {process.pid})" for process in processes],
    )


def _sizing(segments: list[TracedSegment], life: Lifecycle, trace: Trace) -> Sizing:
    known, usage = life.statistics, life.usage
    peak = max(usage.peak, known.peak if known else 0) if known or usage.known else None
    refused = sum(segment.refused for segment in segments)
    return sizing(
        peak,
        declared=max(usage.declared, peak or 0) if usage.known else None,
        touched=trace.meta.page_size * sum(max(segment.pages, _present(segment)) for segment in segments),
        limit=trace.meta.size_limit,
        refused=refused,
        deaths=life.deaths,
        refusals=life.refusals(),
        looked=life.looked or (known is not None and known.store == "native"),
        partial=known is None and (not trace.complete or bool(_losses(trace, life)) or bool(life.stale)),
        inodes_refused=life.inodes_refused,
    )


def _present(segment: TracedSegment) -> int:
    return max((use.present or 0 for use in segment.used_by), default=0)


def _sources(trace: Trace, life: Lifecycle, segments: list[TracedSegment]) -> list[Source]:
    """Return what the recorder says of its instruments, and those that only the records name."""
    names = {one.source for one in trace.meta.sources}
    seen = set(life.sources)
    if any(segment.faults.total for segment in segments):
        seen.add("perf")
    if any(segment.faults.around for segment in segments):
        seen.add("filemap")
    unnamed = sorted(seen - names - {"shmfs"})
    return trace.meta.sources + [Source(one, exact=one != "pagemap") for one in unnamed]
