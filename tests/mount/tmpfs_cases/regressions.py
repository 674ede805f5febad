"""What random differential testing (scripts/differential) has brought up, each made small."""

import os
from pathlib import Path
from typing import Any

from tmpfs_cases import case
from tmpfs_cases.tools import PAGE, blocks, call, child, mode, new, tried, unprivileged


@case(options="size=64k,nr_inodes=24")
def a_full_inode_space_is_told_before_bad_flags_of_an_attribute(d: Path) -> Any:
    os.close(new("f"))
    big, small = b"x" * 32768, b"x"
    seen = [tried(os.setxattr, "f", "trusted.a", big, flags) for flags in (0, 1, 2, 3)]
    seen += [tried(os.setxattr, "f", "trusted.a", small, flags) for flags in (2, 3, 1, 1, 3)]
    return [seen, tried(os.setxattr, "f", "trusted.a", big, 1), os.statvfs(".").f_ffree]
