"""The report on a trace, for people: `findings.Analysis` as facts and tables.

Every section says where its figures come from. It fits any width from 40 columns, with or without colour.
"""

import shlex
import time

from rich.console import Console, RenderableType
from rich.text import Text

from shmfs.analysis.findings import Analysis, TracedDeath, TracedSegment
from shmfs.analysis.wording import circumstances, limit_text, unfollowed, who
from shmfs.events.amounts import clock, plural, size
from shmfs.events.records import stale
from shmfs.report.text import (
    NAMED,
    Fact,
    capped,
    clean,
    clip,
    exit_status,
    labelled,
    names_of,
    refusal_facts,
    show,
    sparkline,
    strong,
)
from shmfs.report.trace_tables import Tables

DEATHS = 10
"""Deaths that are told; the others are counted."""

DOCKER = 64 << 20
"""What Docker gives a container for /dev/shm if it is not told otherwise."""


def render(analysis: Analysis, console: Console) -> None:
    """Print the report."""
    report = TraceReport(analysis, console.width)
    show(console, labelled(report.head(), console.width))
    for title, source, parts in report.sections():
        console.print()
        show(console, Text.assemble((title, "bold"), (f"  {source}" if source else "", "dim")), *parts)
    console.print()
    show(console, labelled(report.sources(), console.width))


class TraceReport:
    """What is printed about one trace."""

    def __init__(self, analysis: Analysis, width: int) -> None:
        self.analysis = analysis
        self.width = width
        self.tables = Tables(analysis, width)
        self._paths = {one.segment: one.path for one in analysis.segments}
        losses = analysis.losses
        partial = losses.faults or any(of not in ("fuse", "mm") for of in losses.records)
        certain = self.stale("fault") or ("exact" if analysis.complete else "exact until the cut")
        self.perf = "perf, at least: records are missing" if partial else f"perf, {certain}"
        self.fuse = self.stale(*DAEMON) or "exact"

    def stale(self, *figures: str) -> str:
        """Return "as of HH:MM:SS" where one of the figures was not brought up to date later, otherwise ""."""
        failed = stale(self.analysis.stale, *figures)
        return f"as of {clock(failed.since)}" if failed else ""

    # The head.

    def head(self) -> list[Fact]:
        """Return what it is about, and what is missing."""
        a = self.analysis
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(a.started // 10**9))
        about = [clean(part) for part in (a.host, f"Linux {a.kernel}" if a.kernel else "") if part]
        facts = [
            ("trace", Text.assemble((clean(a.path), "bold"), *(f" · {part}" for part in [*about, when])))
        ]
        if a.command:
            facts.append(("ran", Text(clip(clean(shlex.join(a.command)), 200), "bold")))
        if a.mount:
            limit = f", {size(a.size_limit)}" if a.size_limit else ""
            facts.append(("mount", Text(f"{clean(a.mount)} ({clean(a.store) or 'unknown store'}{limit})")))
        facts += [("end", self.end()), ("faults", self._faults())]
        if a.faults.total:
            facts.append(("", self._timeline()))
        return facts + self.missing()

    def outcome(self) -> Text:
        """Return how it ended."""
        a = self.analysis
        return (
            exit_status(a.status) if a.status is not None else Text("recorded" if a.complete else "cut off")
        )

    def end(self) -> Text:
        """Return how it ended, and of what size it was."""
        a, end = self.analysis, self.outcome()
        if a.duration is not None:
            end.append(f" {'for' if a.complete and a.status is None else 'after'} {a.duration:.2f} s")
        end.append(f" · {plural(len(a.segments), 'segment')} · {plural(len(a.processes), 'process')}")
        return end

    def _faults(self) -> Text:
        count = self.analysis.faults
        kinds = {
            "minor": count.minor,
            "major": count.major,
            "failed": count.failed,
            "of unknown kind": count.unknown,
        }
        accesses = {"reads": count.reads, "writes": count.writes, "executed": count.executes}
        text = Text.assemble((f"{count.total:,}", "bold"))
        for words in (kinds, accesses):
            parts = [f"{number:,} {word}" for word, number in words.items() if number]
            text.append(" · " + ", ".join(parts) if parts else "")
        text.append(f" · {count.around:,} mapped around them" if count.around else "")
        return text.append(f" ({self.perf})", "dim")

    def _timeline(self) -> Text:
        line = self.analysis.timeline
        cells = max(10, min(len(line.counts), self.width - 10))
        text = Text(sparkline(line.counts, cells), "cyan")
        most = max(line.counts) / line.width * 1e9
        start = self.tables.at(max(line.start, self.analysis.started))
        end = self.tables.at(line.start + len(line.counts) * line.width)
        return text.append(f"\n{start} to {end}, at most {most:,.0f} a second", "dim")

    def missing(self) -> list[Fact]:
        """Return why this is not everything, if it is not."""
        a, losses, facts = self.analysis, self.analysis.losses, []
        if a.damage:
            facts.append(("cut", Text(f"{a.damage}; what was before is below", "bold yellow")))
        elif not a.complete:
            text = "there is no end: the recorder was killed, or still records; this is what it had written"
            facts.append(("cut", Text(text, "bold yellow")))
        gaps = len(losses.unfollowed)  # each is at least one record of perf
        records = {of: count - gaps if of == "perf" else count for of, count in losses.records.items()}
        lost = [f"{plural(count, 'record')} of {clean(of)}" for of, count in records.items() if count > 0]
        if gaps:
            lost.append(clean(unfollowed(losses.unfollowed)))
        if losses.faults:
            lost.append(f"{plural(losses.faults, 'fault')} for which the file had no room")
        if losses.events:
            lost.append(f"{plural(losses.events, 'event')} for which the file had no room")
        if losses.unreadable:
            lost.append(f"{plural(losses.unreadable, 'event')} that cannot be understood")
        if lost:
            facts.append(("lost", Text(", ".join(lost), "bold yellow")))
        return facts + [("stale", Text(clean(one.sentence), "bold yellow")) for one in a.stale]

    # The sections.

    def sections(self) -> list[tuple[str, str, list[RenderableType]]]:
        """Return title, source and content of those that have something to say."""
        daemon = "fuse, mm" if any(one.size is not None for one in self.analysis.segments) else ""
        traced = any(one.calls is not None for one in self.analysis.segments)
        fuse = "at least: records are missing" if self.analysis.losses.records.get("fuse") else self.fuse
        calls = f" · read(), write(): fuse, {fuse}" if traced else ""
        size_of = (f" · size, peak: {daemon}" if daemon else "") + calls
        filemap = any(one.source == "filemap" for one in self.analysis.sources)
        around = "perf, filemap" if filemap else "perf; pages mapped around a fault are not seen"
        once = " · at once: pagemap, sampled" if self._sampled() else ""
        made = any(one.end != "unknown" for one in self.analysis.segments)
        lives = (
            f"fuse, {self.fuse} · "
            if made
            else "who made and removed them is seen on a mount of shmfs only · "
        )
        sizing = self.sizing()
        all_of: list[tuple[str, str, list[RenderableType]]] = [
            ("Deaths and refusals", "shmfs, mm, perf", self._deaths()),
            ("Segments", f"faults, pages: {self.perf}{size_of}", self.tables.segments()),
            ("Processes", f"faults, pages: {self.perf}{calls}", self.tables.processes()),
            ("Faults by segment and process", self._faults_source() + calls, self.tables.uses()),
            (
                "Sharing",
                f"pages by how many processes touched them: {around}{once}",
                self.tables.sharing(),
            ),
            ("Lives", f"{lives}mapped by: perf", self._lives()),
            ("Sizing", "", [labelled(sizing, self.width)] if sizing else []),
        ]
        return [(title, source, parts) for title, source, parts in all_of if parts]

    def _sampled(self) -> bool:
        return any(one.shared_at_once is not None for one in self.analysis.segments)

    def _faults_source(self) -> str:
        sampled = any(use.pss is not None for one in self.analysis.segments for use in one.used_by)
        return self.perf + (" · PSS, USS: pagemap, sampled" if sampled else "")

    def _lives(self) -> list[RenderableType]:
        facts = self.left()
        return [*self.tables.lives(), *([labelled(facts, self.width)] if facts else [])]

    def left(self) -> list[Fact]:
        """Return what was left behind."""
        facts: list[Fact] = []
        for end, label, what in (
            ("linked", "left", "still linked"),
            ("held", "held", "unlinked, but still held"),
        ):
            left = [one for one in self.analysis.segments if one.end == end]
            if left:
                held = self.tables.pages(sum(one.resident or 0 for one in left))
                text = strong(plural(len(left), "segment"), "bold yellow")
                facts.append((label, text.append(f" {what} ({held}): {names_of(one.name for one in left)}")))
        died: dict[int, list[TracedSegment]] = {}
        for one in self.analysis.segments:
            for process in one.died_with_it:
                died.setdefault(process, []).append(one)
        for process, segments in list(died.items())[:NAMED]:
            text = strong(self.tables.process(process), "bold yellow")
            facts.append(
                (
                    "died",
                    text.append(f" by a signal, with {names_of(one.name for one in segments)} not unlinked"),
                )
            )
        if len(died) > NAMED:
            facts.append(("", Text(f"… and {plural(len(died) - NAMED, 'process')} more so", "dim")))
        return facts

    def _deaths(self) -> list[RenderableType]:
        deaths = self.analysis.deaths
        facts = [("SIGBUS", self.death(death)) for death in deaths[:DEATHS]]
        facts = capped(facts, DEATHS, len(deaths)) + self.refusals()
        return [labelled(facts, self.width)] if facts else []

    def refusals(self) -> list[Fact]:
        """Return what failed beside the deaths that were explained."""
        facts: list[Fact] = []
        explained = {(death.process, death.segment) for death in self.analysis.deaths}
        failed = [
            (one, use.faults.failed)
            for one in self.analysis.segments
            for use in one.used_by
            if use.faults.failed and (use.process, one.segment) not in explained
        ]
        if failed:
            text = strong(plural(sum(count for _, count in failed), "fault"), "bold red")
            names = names_of(dict.fromkeys(one.name for one, _ in failed))
            facts.append(("SIGBUS", text.append(f" ended in SIGBUS, and no reason was recorded: on {names}")))
        lines = refusal_facts(self.analysis.refusals)
        facts += capped(lines, DEATHS)
        refused = self.analysis.sizing.refused
        if refused and not lines and not self.analysis.deaths:
            hit = names_of(one.name for one in self.analysis.segments if one.refused)
            limit = f" at {size(self.analysis.size_limit)}" if self.analysis.size_limit else ""
            text = strong(plural(refused, "charge"), "bold red")
            text.append(f" refused{limit}, in {hit}: ENOSPC or ENOMEM to calls, SIGBUS to touches")
            facts.append(("full", text))
        inodes = self.analysis.sizing.inodes_refused
        if inodes and not lines:
            text = strong(plural(inodes, "file"), "bold red")
            facts.append(("full", text.append(" could not be made: no inode was left; raise nr_inodes=")))
        return facts

    def death(self, death: TracedDeath) -> Text:
        """Return who died, where and why."""
        text = Text.assemble(
            (self._died(death), "bold red"),
            f" at {self.tables.at(death.time)}",
        )
        text.append(f", page {death.page:,}" if death.page is not None else "")
        path = death.path or self._paths.get(death.segment, "")
        text.append(f" of {clean(path)}" if path else "")
        reason = clean(death.reason)
        text.append(f": {reason.removesuffix('.')}" if reason else "")
        if death.limit:
            text.append(f" ({limit_text('size', death.limit)}).")
        else:
            text.append(".")
        holders = sorted(death.holders, key=lambda one: -one.bytes)
        if holders and clean(holders[0].path) in reason:  # older recorders had it all in the reason
            return text
        after, more = death.held_after, death.more_holders
        for sentence in circumstances("size", holders, death.enough, after, more) if death.limit else ():
            text.append(f" {clean(sentence)}")
        made = next((one for one in holders if one.processes), None)
        text.append(f" The first was held by {self.tables.people(made.processes)}." if made else "")
        times = self._times(death)
        return text.append(f" {times} times." if times > 1 else "")

    def _died(self, death: TracedDeath) -> str:
        """Return who died."""
        if death.process is not None:
            return self.tables.process(death.process)
        return clean(who(death.command, death.pid)) if death.pid else "a process"

    def _times(self, death: TracedDeath) -> int:
        """How often the process got SIGBUS on the file; the first time is explained."""
        uses = (use for one in self.analysis.segments if one.segment == death.segment for use in one.used_by)
        return sum(use.faults.failed for use in uses if use.process == death.process)

    def sizing(self) -> list[Fact]:
        """Return the size that was needed, as each who mounts wants it."""
        sizing = self.analysis.sizing
        if sizing.size is None:
            return []
        texts = {
            "exact": "the most that was in use at once (fuse, mm, exact)",
            "looked": "at least: the most that was seen in use at once; the peak of native pages is sampled",
            "partial": "the most that was in use at once, as far as it was recorded (fuse, mm, at least)",
            "least": "at least: something was refused, and what would have come after it is not known; to "
            "find the size, run again with `-o size=0` and read the peak",
            "full": "at least: the mount was full, so that something may have been refused which is not seen "
            "on native pages; to find the size, run again with `-o size=0` and read the peak",
            "estimate": "what pages with faults come to (perf), an estimate: pages that were only written by "
            "write(2) are not in it, and those of segments that did not live at the same time are",
        }
        needed = Text.assemble((size(sizing.needed), "bold"), f"  {texts[sizing.basis]}")
        if sizing.basis == "least" and sizing.declared and sizing.declared > (sizing.peak or 0):
            needed.append(f"; all pages of the segments there were come to {size(sizing.declared)}")
        docker = Text(f"docker run --shm-size={sizing.size}", "green")
        if sizing.needed <= DOCKER and sizing.basis == "exact":
            docker.append("  (what it gives by default, 64 MiB, is enough)", "dim")
        limit = f"emptyDir: {{medium: Memory, sizeLimit: {sizing.quantity}}}"
        kubernetes = Text(limit, "green").append(
            "  (counts against the memory limit of the container)", "dim"
        )
        return [
            ("needed", needed),
            ("tmpfs", Text(f"mount -o size={sizing.size}", "green")),
            ("docker", docker),
            ("compose", Text(f"shm_size: {sizing.size}", "green")),
            ("Kubernetes", kubernetes),
        ]

    # Where it all comes from.

    def sources(self) -> list[Fact]:
        """Return a line for each instrument."""
        facts: list[Fact] = []
        for one in self.analysis.sources:
            figures = ", ".join(clean(figure) for figure in one.figures) or _FIGURES.get(one.source, "")
            missing = self.analysis.losses.records.get(one.source)
            certain = self.stale(*_STALE.get(one.source, ()))
            certain = certain or ("at least" if missing else "exact" if one.exact else "sampled")
            parts = [figures, certain, clean(one.note)]
            facts.append((clean(one.source), Text(" · ".join(part for part in parts if part), "dim")))
        return facts or [("", Text("nothing was recorded", "dim"))]


DAEMON = "events", "segments", "path", "size", "resident", "refused"
"""Figures of the daemon's, by which its part of a report is marked as stale."""

_STALE = {
    "perf": ("fault", "map", "process"),
    "filemap": ("fault",),
    "fuse": DAEMON,
    "mm": DAEMON,
    "pagemap": ("sample",),
}
"""The figures of each source."""

_FIGURES = {
    "perf": "faults, mappings, processes",
    "filemap": "pages mapped around faults",
    "fuse": "names, sizes, who created, opened, unlinked",
    "mm": "pages charged, freed, refused",
    "pagemap": "pages present, PSS, USS",
}
