"""The resource limits of the daemon: those of the shell that mounted are not for what serves everybody."""

import contextlib
import resource
from pathlib import Path

_LIFTED = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)
"""The daemon serves for long, and all pages are in one file of it."""


def lift() -> None:
    """Lift the limits wholly, which needs CAP_SYS_RESOURCE, or as far as the hard ones permit."""
    for limit in _LIFTED:
        hard = resource.getrlimit(limit)[1]
        for ceiling in (resource.RLIM_INFINITY, hard):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(limit, (ceiling, ceiling))
                break


def spare_from_oom_killer() -> str:
    """Exempt this process, because a daemon holds everybody's data; returns why that is refused, or "".

    It needs CAP_SYS_RESOURCE.
    """
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
    except OSError as error:
        return error.strerror or str(error)
    return ""
