"""A trace for ui.perfetto.dev: who touched what, when, and who followed.

Processes with their threads are processes there; a fault is an instant on the track of its thread, with an
arrow from the fault that touched the page first to those by which other processes got it. Segments are
tracks below "shmfs", with counters; so is the mount. Beyond `faults.FEW` faults are summed up, in slices
on the tracks of the threads: the file says so in words, and `write` returns the sentences.
"""

from collections.abc import Iterable
from typing import IO, Any

from shmfs.analysis.tally import batches
from shmfs.export.perfetto.faults import Kept, Rates, Sums, Survey, Writer, shares
from shmfs.export.perfetto.packets import INSTANT, Packets, import_perfetto
from shmfs.export.perfetto.story import FREQUENT, Story
from shmfs.export.perfetto.tracks import SEGMENTS, Tracks
from shmfs.tracefile.format import Event, Faults
from shmfs.tracefile.stream import Trace, split

__all__ = ["import_perfetto", "write"]

ABOUT = (
    "version",
    "host",
    "boot_id",
    "kernel",
    "mount",
    "device",
    "store",
    "options",
    "size_limit",
    "page_size",
)
"""Of the description of the recording, as it is."""

POINTS = 10_000
"""Windows of time in which a counter is thinned out."""


def write(trace: Trace, parts: Iterable[Faults | list[Event]], file: IO[bytes]) -> list[str]:
    """Write the trace, whose chunks `parts` are; return sentences on what is not in there one by one.

    All is read twice. Raises ShmfsError without the package perfetto.
    """
    meta, survey = trace.meta, Survey()
    packets = Packets(file, meta)
    survey.read(trace.chunks())
    tracks = Tracks(packets, meta, survey.known)
    start = survey.first if survey.count else meta.started
    end = max(survey.last, trace.done.ended if trace.done else survey.last_event)
    story = Story(tracks, meta, max(0, end - start) // POINTS)
    rates = [Rates(start, max(start, survey.last), most) for most in survey.most]
    sums, kept = Sums(survey), Kept(survey)
    for faults in batches(split(parts, story.take)):
        own = faults[faults["source"] == 0]
        for rate, number in zip(rates, ("process", "segment"), strict=True):
            rate.add(own[number], own["time"])
        if survey.summed_up:
            sums.add(faults)
        kept.add(faults)
    single = kept.faults()
    Writer(tracks).write(single, *shares(single, pages=not survey.summed_up))
    sums.write(tracks)
    _rates(tracks, *rates)
    thinned = story.finish(end)
    notes = [_summed_up(survey, sums, kept)] if survey.summed_up else []
    notes += _left_out(story, tracks, thinned)
    _about(trace, tracks, notes, start, end)
    packets.flush()
    return notes


def _rates(tracks: Tracks, processes: Rates, segments: Rates) -> None:
    """Write how many faults a second there were, by process and by segment."""
    for rates, track_of in ((processes, tracks.of_process), (segments, tracks.of_segment)):
        counters: dict[int, int] = {}
        for number, time, value in rates.values():
            if number not in counters:
                track = track_of(number)
                own = track != tracks.rest
                counters[number] = tracks.packets.counter("faults", track, "faults/s") if own else 0
            if counters[number]:
                tracks.packets.value(counters[number], time, value)


def _summed_up(survey: Survey, sums: Sums, kept: Kept) -> str:
    words = [
        *(["the first of each process on each segment"] if kept.firsts else []),
        *(["major and failed ones"] if kept.rare else []),
    ]
    text = (
        f"{survey.count:,} faults are too many to look at one by one: those of each thread are summed up in"
        f" slices of {sums.width / 1e6:g} ms"
    )
    return f"{text}, and only {' and '.join(words)} are there by themselves" if words else text


def _left_out(story: Story, tracks: Tracks, thinned: int) -> list[str]:
    notes = []
    if story.left_out:
        kinds = ", ".join(sorted(FREQUENT))
        notes.append(f"{story.left_out:,} events of the kinds {kinds} were left out, for there are so many")
    if tracks.shared_by:
        notes.append(f"{tracks.shared_by:,} segments beyond the first {SEGMENTS:,} share a track")
    if thinned:
        notes.append(
            f"{thinned:,} values of counters were left out: of each {POINTS:,}th of the time the peak and the"
            " last value are there"
        )
    if story.unreadable:
        notes.append(f"{story.unreadable:,} events are not as they should be, and were left out")
    return notes


def _about(trace: Trace, tracks: Tracks, notes: list[str], start: int, end: int) -> None:
    """Write what was recorded, and what is missing."""
    packets, meta, done = tracks.packets, trace.meta, trace.done
    told: dict[str, Any] = {name: getattr(meta, name) for name in ABOUT}
    told["command"] = " ".join(meta.command) if meta.command else None
    for source in meta.sources:
        exact = "exact" if source.exact else "sampled"
        about = f"{exact}: {', '.join(source.figures)}"
        told[f"source {source.source}"] = f"{about} ({source.note})" if source.note else about
    packets.event(INSTANT, start, tracks.recording, "recording", "recording", told)
    for note in notes:
        packets.event(INSTANT, start, tracks.recording, note, "note")
    if trace.damage:
        packets.event(INSTANT, end, tracks.recording, trace.damage, "note")
    if done is not None:
        numbers = {"status": done.status, "faults": done.faults, "lost records": done.lost}
        numbers |= {"dropped faults": done.dropped, "dropped events": done.dropped_events}
        packets.event(INSTANT, end, tracks.recording, "end of the recording", "recording", numbers)
