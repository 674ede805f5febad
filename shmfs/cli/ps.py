"""`shmfs ps`."""

from typing import TYPE_CHECKING, Any

import click

from shmfs.cli import output
from shmfs.errors import ShmfsError

if TYPE_CHECKING:
    from shmfs.client.inventory import Entry
    from shmfs.events.records import Observation, Segment

NAMED = 3
"""Processes that are named; more of them are counted by command."""

_FIELDS = {"pid": "pid", "size": "size_limit", "used": "used", "peak": "peak", "inodes": "inode_limit"}
_FIELDS |= {name: name for name in ("inodes_used", "readahead", "store", "options")}
"""Of `Statistics`, by their names in JSON."""

_EPILOG = """\b
Examples:
  shmfs ps
  shmfs ps /mnt/shm
  shmfs ps 0:57 --json | jq .segments
"""


@click.command(epilog=_EPILOG, short_help="List the mounts, or the segments of one.")
@click.option("-a", "--all", "ended", is_flag=True, help="Show also segments that are gone.")
@output.json_option("it")
@click.argument("target", metavar="[DIR]", required=False, type=output.DIRECTORY)
def ps(ended: bool, as_json: bool, target: str | None) -> None:
    """List the shmfs mounts, or the segments of the one that holds DIR.

    Mounts in sandboxes are listed too; they are named by their device number instead of DIR.
    """
    from shmfs.client import inventory

    if target is None:
        found = inventory.entries()
        if as_json:
            output.print_json([_mount_json(entry) for entry in found])
        else:
            _print_mounts(found)
        return
    entry = inventory.find(target)
    if entry.statistics is None:
        raise ShmfsError(f"{entry.mountpoint}: {entry.reason}{_see(entry)}")
    _segments(entry, ended=ended, as_json=as_json)


def _see(entry: "Entry") -> str:
    return f" (what it said: {entry.log})" if entry.log else ""


def _mount_json(entry: "Entry") -> dict[str, Any]:
    import msgspec

    known = entry.statistics
    return {
        "mountpoint": entry.mountpoint,
        "device": entry.device,
        "state": entry.state,
        "sandbox": entry.sandbox,
        **{name: getattr(known, field) if known else None for name, field in _FIELDS.items()},
        "notes": known.notes if known else [],
        "stale": msgspec.to_builtins(known.stale) if known else [],
        "reason": entry.reason,
        "log": entry.log,
    }


def _print_mounts(entries: "list[Entry]") -> None:
    from shmfs.report import columns

    console = output.console()
    if not entries:
        output.complain("nothing is mounted; `shmfs mount DIR` mounts")
        return
    rows = []
    for entry in entries:
        name = entry.mountpoint + (" (sandbox)" if entry.sandbox else "")
        known = entry.statistics
        values: list[Any] = [(entry.state, "bad"), *[None] * 6]
        if known is not None:
            limit = known.size_limit or ("no limit", "")
            values = [known.pid, limit, known.used, known.peak, known.store, known.readahead, known.options]
        rows.append([(name, "name" if known else "bad"), entry.device, *values])
    output.listing(console, columns.MOUNTS, rows)
    for entry in entries:
        if entry.reason:
            output.complain(f"{entry.mountpoint}: {entry.reason}{_see(entry)}")
        _print_stale(entry)


def _print_stale(entry: "Entry") -> None:
    for one in entry.statistics.stale if entry.statistics else ():
        output.complain(f"{entry.mountpoint}: {one.sentence}")


def _segments(entry: "Entry", *, ended: bool, as_json: bool) -> None:
    import msgspec

    from shmfs.record.sampler import observe

    assert entry.statistics is not None  # noqa: S101
    seen = observe(entry.device)
    by_inode = {one.inode: one for one in seen.segments}
    segments = [one for one in entry.statistics.segments if ended or not one.evicted]
    segments.sort(key=lambda one: (-one.resident, one.path))
    if not as_json:
        _print_segments(entry, segments, by_inode, seen.hidden)
        return
    rows = []
    for segment in segments:
        one = by_inode.get(segment.inode)
        row = msgspec.to_builtins(segment)
        row["mapped_by"] = msgspec.to_builtins(one.mapped_by) if one else []
        row["shared"] = one.shared if one else 0
        row["attaches"] = one.attaches if one else 0
        rows.append(row)
    output.print_json(_mount_json(entry) | {"hidden": seen.hidden, "segments": rows})


def _print_segments(
    entry: "Entry", segments: "list[Segment]", seen: "dict[int, Observation]", hidden: int
) -> None:
    from rich.text import Text

    from shmfs.report import columns
    from shmfs.report.text import clean, plural, size

    console = output.console()
    known = entry.statistics
    assert known is not None  # noqa: S101
    limit = f" of {size(known.size_limit)}" if known.size_limit else ", no limit"
    head = f"{entry.mountpoint}: {size(known.used)}{limit}, "
    head += f"{plural(len(segments), 'segment')}, device {entry.device}, daemon {known.pid}"
    output.emit(console, Text(clean(head), "bold"))
    _print_stale(entry)
    if not segments:
        return
    shown = [columns.SEGMENT, columns.KIND, columns.SIZE, columns.RESIDENT_PAGES, columns.PAGE_INS]
    shown += [columns.CREATED_BY, columns.MAPPED_BY, columns.ATTACHES, columns.SHARED]
    output.listing(console, shown, [_values(segment, seen.get(segment.inode)) for segment in segments])
    output.tell_hidden(hidden)


def _values(segment: "Segment", seen: "Observation | None") -> list[Any]:
    from rich.text import Text

    from shmfs.events.names import people, process_name
    from shmfs.report import columns
    from shmfs.report.text import clean

    anonymous = segment.kind == "anon"
    state = "ended" if segment.evicted else "unlinked" if not segment.nlink and not anonymous else ""
    name = clean(segment.name), "dim" if segment.evicted else "cyan"
    return [
        Text.assemble(name, (f" ({state})" if state else "", "yellow")),
        columns.kind(segment.kind),
        segment.size,
        segment.resident,
        segment.page_ins,
        process_name(segment.created_by) if segment.created_by else None,
        people([one.process for one in seen.mapped_by], NAMED) if seen else None,
        seen.attaches if seen else 0,
        seen.shared if seen else 0,
    ]
