"""Deaths and refusals as sentences: the same words on standard error, in reports and in HTML."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shmfs.events.amounts import option_value, plural, size
from shmfs.events.names import some
from shmfs.events.records import PAGE, Death, Refusal

if TYPE_CHECKING:
    from shmfs.analysis import findings
    from shmfs.events import records

    Holder = records.Holder | findings.TracedHolder

NAMED = 3
"""Holders, or processes, that a sentence names."""

_COUNTED = {"nr_inodes": "inode", "shmmni": "segment"}
"""Limits that count things instead of bytes."""
_UNLIMITED = ("size", "nr_inodes")
"""Options for which 0 is unlimited."""


def who(command: str, pid: int, tid: int = 0) -> str:
    """Return the name of a process: "python3 (pid 12)"; a thread that is not the first one is named too."""
    thread = f", thread {tid}" if tid not in (0, pid) else ""
    if not pid:
        return "a process that is not known"
    return f"{command} (pid {pid}{thread})" if command else f"process {pid}{thread}"


def unfollowed(processes: Sequence[str]) -> str:
    """Return what is missing where perf did not follow processes ("COMMAND (pid N)") after an exec."""
    several = some(processes, 3)
    return (
        f"page faults of {several} after an exec with other rights, where the kernel ends perf's monitoring"
    )


def held_by(holders: "Sequence[Holder]", more: int = 0) -> str:
    """Return who holds the space: "/big 7 MiB (created by python3, pid 12) and 2 more".

    `holders` has the largest first; beside them there are `more`.
    """
    named = [
        f"{one.path or 'a file without a name'} {size(one.bytes)}"
        + (f" (created by {one.command}, pid {one.pid})" if one.command else "")
        for one in holders
    ]
    return some(named, NAMED, more)


def advice(option: str, enough: str | None) -> str:
    """Return what to try; no value is promised to be enough, for what would have come later is unknown."""
    find = f"; to find the value, run again with `-o {option}=0` and read the peak"
    find = find if option in _UNLIMITED else ""
    if enough is None:
        return find.removeprefix("; ")
    return f"at least {option}={enough} is needed{find}"


def limit_text(option: str, limit: int) -> str:
    """Return a limit and its value: "size=8m", "nr_inodes=100", "RLIMIT_FSIZE of 1 MiB"; "" is unknown.

    As the option is written: shmall= is in pages.
    """
    if not limit:
        return ""
    if option.isupper():
        return f"{option} of {size(limit)}"
    if option == "shmall":
        limit //= PAGE
    return f"{option}={limit if option in (*_COUNTED, 'shmall') else option_value(limit)}"


def amount(option: str, number: int) -> str:
    """Return an amount in the unit of a limit; "more space" where it is not known."""
    if not number:
        return "more space"
    return plural(number, _COUNTED[option]) if option in _COUNTED else size(number)


def circumstances(
    option: str, holders: "Sequence[Holder]", enough: str | None, after: int = 0, more: int = 0
) -> list[str]:
    """Return whole sentences: who holds the space, as seen so many nanoseconds `after`, and what to do.

    Beside `holders` there are `more`.
    """
    later = f" {after / 1e6:.0f} ms later" if after >= 500_000 else ""
    sentences = [f"Held{later} by: {held_by(holders, more)}."] if holders else []
    if todo := advice(option, enough):
        sentences.append(f"{todo[0].upper()}{todo[1:]}.")
    return sentences


def death_sentence(death: Death) -> str:
    """Return who died, where, why, and what to do."""
    if not death.path and death.page is None:
        name = who(death.process, death.pid, death.tid)
        text = f"SIGBUS: {name} was killed by signal 7: {death.reason}"
    else:
        text = f"SIGBUS: {death_brief(death)}, but {death.reason}"
    if not death.limit:
        return f"{text}."
    text += f" ({limit_text('size', death.limit)})."
    more = death.more_holders
    return " ".join([text, *circumstances("size", death.holders, death.enough, death.held_after, more)])


def death_brief(death: Death) -> str:
    """Return who died, and where: a part of a sentence about several."""
    name = who(death.process, death.pid, death.tid)
    if not death.path and death.page is None:
        return f"{name} was killed by signal 7 ({death.reason})"
    page = "a page" if death.page is None else f"page {death.page}"
    return f"{name} touched {page} of {death.path or 'a file without a name'}"


def refusal_brief(refusal: Refusal) -> str:
    """Return who asked for what, and which limit refused it: a part of a sentence about several."""
    limit = limit_text(refusal.limit_name, refusal.limit) or refusal.limit_name
    return f"{_asked(refusal)}, beyond {limit}"


def _asked(refusal: Refusal) -> str:
    nameless = refusal.inode and refusal.limit_name in ("size", "RLIMIT_FSIZE")
    place = refusal.path or ("a file without a name" if nameless else "")
    asked = amount(refusal.limit_name, refusal.asked) if refusal.asked else "more space"
    return (
        f"{who(refusal.process, refusal.pid, refusal.tid)} asked for"
        f" {asked}{place and f' for {place}'}"
        f"{refusal.call and f' ({refusal.call})'}"
    )


def refusal_sentence(refusal: Refusal) -> str:
    """Return who asked for how much, what refused it, and what to do."""
    option = refusal.limit_name
    limit = limit_text(option, refusal.limit) or option
    text = f"{refusal.errno}: {_asked(refusal)}, but {limit} is reached."
    after, more = refusal.held_after, refusal.more_holders
    return " ".join([text, *circumstances(option, refusal.holders, refusal.enough, after, more)])


def refusal_lines(refusals: Sequence[Refusal]) -> list[tuple[str, str]]:
    """Return a label and a sentence for each errno, limit and file, with a count of calls and processes."""
    kinds: dict[tuple[str, str, str], list[Refusal]] = {}
    for one in refusals:
        kinds.setdefault((one.errno, one.limit_name, one.path), []).append(one)
    lines = []
    for (errno, _, _), several in kinds.items():
        text = refusal_sentence(several[0]).removeprefix(f"{errno}: ")
        count = sum(one.count for one in several)
        if count > 1:
            text += f" {count} times in all, by {plural(len({one.pid for one in several}), 'process')}."
        lines.append((errno, text))
    return lines
