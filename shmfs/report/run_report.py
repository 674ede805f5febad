"""The report at the end of `shmfs run`: what happened to the shared memory of one command.

`build` puts the exact figures of the daemon and the sampled ones of the sampler together, `render` shows them
to a person, `report_json` to a program. Every figure says its source, and whether it is exact or sampled.
"""

import shlex
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from shmfs.analysis.totals import refused, unexplained
from shmfs.analysis.wording import advice, death_sentence
from shmfs.events.amounts import clock, option_size, parse_size, plural, size
from shmfs.events.names import people, process_name
from shmfs.events.records import (
    PAGE,
    Death,
    Mapped,
    Observations,
    Refusal,
    Segment,
    Stale,
    Statistics,
    stale,
)
from shmfs.report import columns
from shmfs.report.columns import CREATED_BY, MAPPED_BY, PAGE_INS, PEAK_PAGES, SEGMENT, SHARED, SIZE, figures
from shmfs.report.text import Fact, capped, clean, clip, exit_status, labelled, names_of, refusal_facts, show

ROWS = 20
"""Segments that are shown; the others are counted."""

COLUMNS = (SEGMENT, SIZE, PEAK_PAGES, PAGE_INS, CREATED_BY, MAPPED_BY, SHARED)


_COPIED = (
    *("mount", "device", "options", "store", "readahead", "size_limit", "peak", "inode_limit", "inodes_peak"),
    *("lost_records", "segments_dropped"),
)
"""Fields of `Statistics` that a report has too."""


class ObservedSegment(Struct):
    """One segment with what was seen of it."""

    segment: Segment
    mapped_by: list[Mapped]
    """Sampled."""
    shared: int | None
    """Most pages that two or more processes had present at once. Sampled; None if no sample saw it mapped."""


class ReportSource(Struct):
    """Where figures come from."""

    figures: list[str]
    source: str
    exact: bool
    samples: int = 0
    interval: float = 0.0
    """Mean seconds between samples."""
    hidden: int = 0
    """Processes that could not be looked at."""
    stale: int | None = None
    """Since when one of the figures is not brought up to date: nanoseconds since the epoch."""


class RunReport(Struct):
    """What `shmfs run` knows at the end; sizes in bytes, durations in seconds."""

    command: list[str]
    status: int
    """The exit status as a shell counts: 128+N for signal N."""
    duration: float
    mount: str
    device: str
    options: str
    store: str
    readahead: int
    processes: int
    """Distinct processes that made, opened or mapped a segment."""
    size_limit: int
    peak: int
    inode_limit: int
    inodes_peak: int
    enough: str | None
    """The `size=` that would have been enough, as in "37m". None when a limit refused something or may have,
    and with native pages, whose peak is sampled."""
    refused: int
    """What limits refused, each time: ENOSPC to a call, SIGBUS to a touch."""
    lost_records: int
    segments_dropped: int
    notes: list[str]
    sources: list[ReportSource]
    linked: list[int]
    """Inodes left behind with a name."""
    unlinked: list[int]
    """Inodes left behind without a name, still open or mapped when the report was made."""
    segments: list[ObservedSegment]
    """Largest peak first."""
    deaths: list[Death]
    """Each SIGBUS, once for each process and file."""
    refusals: list[Refusal]
    """What limits refused, once for each errno, call, limit, path and process; not what `deaths` explain."""
    needed: str | None
    """The largest `size=` that is known to be needed at least, where something was refused; with native pages
    no less than the peak that was seen."""
    stale: list[Stale]
    """Figures that are not brought up to date since an observer failed."""


def build(
    statistics: Statistics,
    observations: Observations | None,
    command: Sequence[str],
    status: int,
    duration: float,
    deaths: Sequence[Death] = (),
    calls: Sequence[Refusal] = (),
) -> RunReport:
    """Put together the report on `command`, which ended with `status` after `duration` seconds.

    `calls` are refusals by the kernel, of which the daemon does not know.
    """
    seen = {one.inode: one for one in observations.segments} if observations else {}
    rows = []
    for segment in statistics.segments:
        one = seen.get(segment.inode)
        rows.append(ObservedSegment(segment, one.mapped_by if one else [], one.shared if one else None))
    rows.sort(key=lambda row: (-row.segment.peak_resident, -row.segment.size, row.segment.path))
    left = [row.segment for row in rows if not row.segment.evicted]
    refusals = unexplained(statistics, deaths, calls)
    limited = [one for one in deaths if one.limit] + [one for one in refusals if one.limit_name == "size"]
    recorded = sum(one.count for one in statistics.refusals)
    old = list(statistics.stale)
    if observations is not None and observations.stale is not None:
        old.append(observations.stale)
    unsure = (
        _is_full(statistics) or statistics.refused > recorded or stale(old, "refused", "refusals", "deaths")
    )
    needed = [one.enough for one in limited if one.enough]
    native = statistics.store == "native"
    if native:
        needed.append(option_size(statistics.peak))
    return RunReport(
        command=list(command),
        status=status,
        duration=duration,
        **{name: getattr(statistics, name) for name in _COPIED},
        processes=len(_processes(rows)),
        enough=None if limited or unsure or native else option_size(statistics.peak),
        refused=refused(statistics, deaths, calls),
        notes=list(statistics.notes),
        sources=_sources(observations, old),
        linked=[segment.inode for segment in left if segment.nlink],
        unlinked=[segment.inode for segment in left if not segment.nlink],
        segments=rows,
        deaths=list(deaths),
        refusals=refusals,
        needed=max(needed, key=lambda text: parse_size(text) or 0, default=None),
        stale=old,
    )


def _is_full(about: "Statistics | RunReport") -> bool:
    """Whether native pages were all in use, so that more may have been refused."""
    return about.store == "native" and 0 < about.size_limit <= about.peak


def report_json(report: RunReport) -> bytes:
    """Return the report as one line of JSON."""
    return msgspec.json.encode(report) + b"\n"


def _processes(rows: Iterable[ObservedSegment]) -> set[tuple[int, int]]:
    found = set()
    for row in rows:
        maker = [row.segment.created_by] if row.segment.created_by else []
        mappers = [mapped.process for mapped in row.mapped_by]
        found |= {(one.pid, one.start_time) for one in [*maker, *row.segment.opened_by, *mappers]}
    return found


def _sources(observations: Observations | None, old: list[Stale]) -> list[ReportSource]:
    sources = [
        ReportSource(["size", "created_by", "opened_by", "nlink", "page_ins"], "fuse", True),
        ReportSource(["resident", "peak_resident", "peak", "refused"], "mm", True),
    ]
    if observations is not None:
        sources.append(
            ReportSource(
                ["mapped_by", "shared"],
                "pagemap",
                False,
                observations.samples,
                observations.interval,
                observations.hidden,
            )
        )
    for source in sources:
        if failed := stale(old, *source.figures):
            source.exact, source.stale = False, failed.since
    return sources


# The report for people.


def render(report: RunReport, console: Console) -> None:
    """Print the report; it fits any width from 40 columns, with or without colour."""
    width = console.width
    show(console, labelled(_header(report), width))
    shown = report.segments[:ROWS]
    if shown:
        console.print()
        values = [_values(row, columns.people_room(width)) for row in shown]
        show(console, *columns.listing(COLUMNS, values, width, shortest=columns.SHORTEST))
        if len(report.segments) > len(shown):
            more = report.segments[ROWS:]
            peak = sum(row.segment.peak_resident for row in more)
            text = f"… and {len(more)} more, peaks of {size(peak * PAGE)} in all"
            show(console, Text(text, "dim"))
    console.print()
    warnings = _warnings(report)
    if warnings:
        show(console, labelled(warnings, width))
    show(console, Text(_footer(report), "dim"))


def _header(report: RunReport) -> list[Fact]:
    command = Text(clip(clean(shlex.join(report.command)), 200), "bold")
    limit = f" of {size(report.size_limit)}" if report.size_limit else ", no limit"
    peak = Text.assemble((size(report.peak), "bold"), limit)
    if report.size_limit and report.peak:
        peak.append(f" ({100 * report.peak / report.size_limit:.0f} %)")
    if report.enough is not None:
        peak.append(" · ")
        peak.append(f"size={report.enough}", "bold green")
        peak.append(" would have been enough")
    elif _is_sampled(report):
        peak.append(" · at least ")
        peak.append(f"size={report.needed}", "bold")
        peak.append("; the peak of native pages is sampled")
    else:
        known = _was_refused(report)
        peak.append(" · ")
        peak.append("not enough" if known else "perhaps not enough", "bold red")
        peak.append(f": {advice('size', report.needed)}")
    count = len(report.segments) + report.segments_dropped
    ended = exit_status(report.status)
    ended.append(f" after {report.duration:.2f} s · {plural(count, 'segment')} · ")
    ended.append(plural(report.processes, "process"))
    return [("shmfs", command), ("end", ended), ("peak", peak)]


def _was_refused(report: RunReport) -> bool:
    return bool(report.deaths or report.refusals or report.refused)


def _is_sampled(report: RunReport) -> bool:
    """Whether nothing speaks against the size but that the peak may have been higher between two looks."""
    unsure = _is_full(report) or stale(report.stale, "refused", "refusals", "deaths")
    return report.store == "native" and not unsure and not _was_refused(report)


def _warnings(report: RunReport) -> list[Fact]:
    segments = {row.segment.inode: row.segment for row in report.segments}
    facts: list[Fact] = [("stale", Text(clean(one.sentence), "bold yellow")) for one in report.stale]
    facts += failures(report.deaths, report.refusals)
    for label, inodes, what in (
        ("left", report.linked, "still linked"),
        ("held", report.unlinked, "unlinked but still open or mapped"),
    ):
        if inodes:
            left = [segments[inode] for inode in inodes]
            resident = sum(segment.resident for segment in left)
            text = Text(plural(len(left), "segment"), "bold yellow")
            text.append(f" {what} ({size(resident * PAGE)}): {names_of(one.name for one in left)}")
            facts.append((label, text))
    if report.inode_limit and not report.refusals and report.inodes_peak >= report.inode_limit:
        facts.append(
            ("full", Text(f"all {report.inode_limit} inodes were in use; raise nr_inodes=", "yellow"))
        )
    if report.lost_records:
        lost = Text(f"{plural(report.lost_records, 'record')} of the log, ", "bold yellow")
        lost.append("which could not be written fast enough, or at all", "yellow")
        facts.append(("lost", lost))
    if report.segments_dropped:
        dropped = f"the history of {plural(report.segments_dropped, 'ended segment')}, to save memory"
        facts.append(("lost", Text(dropped, "yellow")))
    said = {one.sentence for one in report.stale}
    facts += [("note", Text(clean(note))) for note in report.notes if note not in said]
    return facts


def failures(deaths: Sequence[Death], refusals: Sequence[Refusal], most: int = ROWS) -> list[Fact]:
    """Return a line for each death, and one for each kind of refusal and file, with its count."""
    facts: list[Fact] = []
    for death in deaths:
        text = Text(clean(death_sentence(death).removeprefix("SIGBUS: ")))
        facts.append(("SIGBUS", text.append(f" {death.count} times.") if death.count > 1 else text))
    return capped(facts, most) + capped(refusal_facts(refusals), most)


def _footer(report: RunReport) -> str:
    parts = []
    reading = f" with {report.readahead} pages of read-ahead" if report.readahead else ""
    old = [one.stale for one in report.sources if one.stale and one.source != "pagemap"]
    exact = f"as of {clock(min(old))}" if old else "exact"
    if report.store == "native":
        known = figures([column for column in COLUMNS if column is not PAGE_INS], "fuse")
        parts.append(f"{known}: {exact} (fuse) · {figures(COLUMNS, 'mm')}: as seen at close (native store)")
    else:
        parts.append(f"{figures(COLUMNS, 'fuse', 'mm')}: {exact}{reading} (fuse, mm)")
    for source in report.sources:
        if source.source != "pagemap":
            continue
        text = f"{figures(COLUMNS, 'pagemap')}: sampled, "
        text += plural(source.samples, "sample")
        if source.samples > 1:
            text += f" every ~{source.interval * 1000:.0f} ms"
        text += f" ({source.source})"
        if source.hidden:
            text += f", {plural(source.hidden, 'process')} not readable"
        if source.stale:
            text += f", none after {clock(source.stale)}"
        parts.append(text)
    if len(parts) == 1:
        parts.append(f"{figures(COLUMNS, 'pagemap')}: not observed")
    return " · ".join(parts)


def _values(row: ObservedSegment, room: int) -> list[object]:
    """Return the values of COLUMNS; those that name processes take at most `room` cells."""
    segment = row.segment
    return [
        (segment.name, "name" if segment.evicted else "warn"),
        segment.size,
        segment.peak_resident,
        segment.page_ins,
        clip(clean(process_name(segment.created_by)), room) if segment.created_by else None,
        clip(clean(_mappers(row)), room),
        row.shared,
    ]


def _mappers(row: ObservedSegment) -> str:
    """Return who mapped it, or how many opened it if no sample saw it mapped."""
    opened = len(row.segment.opened_by)
    return people([one.process for one in row.mapped_by]) or (f"- ({opened} opened)" if opened else "")
