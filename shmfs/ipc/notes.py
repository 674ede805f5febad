"""Why the preloaded library left a call to the kernel."""

NOTES = {
    1: "MAP_HUGETLB: such pages come from the kernel's own pool",
    2: "RLIMIT_FSIZE is smaller than the mapping, and would have killed the program by a signal",
    3: "no file descriptor was free",
    4: "PROT_EXEC on a mount with noexec",
}
"""By the number that it tells the daemon."""


def sentence(reason: int) -> str:
    """As it is told of a mount."""
    return f"shared memory was left to the kernel: {NOTES.get(reason, f'reason {reason}')}"
