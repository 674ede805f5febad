"""What the comparison lets pass, and what the generator leaves out, each with its reason: one table."""

from typing import NamedTuple


class Mask(NamedTuple):
    """A known limit of what shmfs can report: where, what is done about it, and why."""

    targets: tuple[str, ...]
    instead: str
    reason: str


MANAGED = ("run-managed", "record-managed")
NATIVE = ("run-native", "record-native")
RUN = ("run-managed", "run-native")
RECORD = ("record-tmpfs", "record-managed", "record-native")
ALL = (*RUN, *RECORD)

MASKS: dict[str, Mask] = {
    "populate a full mount": Mask(
        MANAGED,
        "mlock and MAP_POPULATE only where the mount is large",
        "the kernel tries again for ever where FUSE refuses a page",
    ),
    "access is unknown": Mask(
        ALL,
        "a fault without access passes",
        "without the tracepoints of exceptions nobody sees whether it was a read or a write",
    ),
    "moved mappings": Mask(
        ALL,
        "faults on a mapping that mremap(2) moved may be missing where the report has this note",
        "perf has no record of it; without its tracepoint /proc is read a moment later",
    ),
    "killed in a touch": Mask(
        ALL,
        "at most one fault; a failed one only behind the end of the file, or where the mount was full once",
        "the program logged the beginning only, and does not know whether the touch was finished",
    ),
    "nobody waited": Mask(
        ALL,
        "any status, and any end of an unfinished touch",
        "the parent has died, so the program does not know how the process ended",
    ),
    "status is unknown": Mask(
        ALL, "null as an exit status passes", "the process connector is for root, and its buffer is bounded"
    ),
    "kernel access that fails": Mask(
        ALL,
        "any number of faults of unknown kind at that page, in read(2) or write(2) that ended in EFAULT",
        "the kernel tries to copy more than once, and no signal says which attempt failed",
    ),
    "the file is gone": Mask(
        ALL,
        "a death that is said to be behind the end of its file, or for lack of space, may be either",
        "the file system is surveyed a moment after the signal: the file may be gone, or resized, by then",
    ),
    "short calls": Mask(
        RUN,
        "a read or a write that was cut short, or that ended in EFAULT, counts as a refusal, or not",
        "the kernel asks page by page or once; what got something is no error, and EFAULT has other causes",
    ),
    "killed in a call": Mask(
        RUN,
        "one refusal more than the program logged, and any reason of a death after it",
        "a process that something else ends in a call does not log how the call ended",
    ),
    "early names": Mask(
        RECORD,
        "the name 'exe' passes, which execve(2) of /proc/self/exe gives",
        "the program names itself later, and what follows may not have been read when the process has ended",
    ),
    "pages that a call maps": Mask(
        ALL,
        "pages mapped around a fault may come in mlock(2), and in mmap(2) and mremap(2) that populate",
        "the kernel maps them by the same function, and the trace has no other kind for them",
    ),
    "records were lost": Mask(
        ALL, "what is missing passes where the report says that records were lost", "a ring was full"
    ),
}


def masked(name: str, target: str) -> bool:
    """Whether a mask holds for a target."""
    return target in MASKS[name].targets
