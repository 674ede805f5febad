"""What `launch` and `daemon` say to each other through the daemon's standard streams."""

import msgspec


class Configuration(msgspec.Struct):
    """What `launch` tells the daemon."""

    mountpoint: str
    """Absolute."""
    options: str
    """As after -o."""
    sandbox: bool = False
    """Mount in a private mount namespace (and without rights in a private user namespace)."""
    lifeline: bool = True
    log_fd: int | None = None
    """Inherited descriptor for the log in JSON lines."""
    log_hooks: list[str] | None = None
    """The events in it; None is all but read and write, which `trace_io` adds."""
    trace_io: bool = False
    """Have read(2) and write(2) come here, so that instruments hear of them; for native pages only."""


class Ready(msgspec.Struct):
    """The answer: the mount can be used, or `error` says why not."""

    error: str = ""
    device: str = ""
    notes: list[str] = []
