"""stress-ng's stressors of files, mappings and shared memory, each checking what it reads."""

from typing import Any

import pytest

from tests.real.support import REAL, SHM, needs, run, run_as_on_tmpfs

pytestmark = REAL

# What each does is in stress-ng(1). The sizes of those that would fill the mount.
STRESSORS = """
aio aiol copy-file fallocate fpunch fsize hdd io-uring iomix readahead revio seek sync-file
dentry dir dirdeep dirmany filename getdent link open rename symlink touch
access chattr chdir chmod chown fiemap file-ioctl fstat handle inode-flags utime xattr
dnotify dup fanotify fcntl flock inotify lease locka lockf lockofd
fifo io mknod sendfile sockfd splice tee vm-splice
fault madvise mincore mlock mmap mmapaddr mmapfixed mmapmany mprotect mremap msync munmap remap rmap
dev-shm memfd sem shm shm-sysv sysbadaddr
"""
SIZES = [f"--{name}-bytes=16m" for name in ("fallocate", "hdd", "iomix", "mmap")]


@pytest.mark.parametrize("stressor", STRESSORS.split())
@pytest.mark.parametrize("options", ["size=512m"])
def test_stress_ng(stressor: str, shmfs: Any) -> None:
    program = needs("stress-ng")
    if stressor not in run(shmfs, program, "--stressors", cwd="/").split():
        pytest.skip(f"this version of stress-ng has no {stressor}")
    command = [program, f"--{stressor}", "2", "--timeout", "2", "--verify", "--temp-path", SHM, *SIZES]
    said = run_as_on_tmpfs(shmfs, *command, cwd="/")
    assert "successful run completed" in said
    if "skipping stressor" in said:
        pytest.skip(next(line for line in said.splitlines() if "skipping stressor" in line))
