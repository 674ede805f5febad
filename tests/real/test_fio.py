"""fio writes blocks with checksums, through several doors of the kernel, and reads them back."""

import json
from typing import Any

import pytest

from tests.real.support import REAL, needs, run

pytestmark = REAL

# iodepth counts for asynchronous engines only; each file is written over and over, then wholly verified.
JOB = """
[global]
directory=/dev/shm
filename_format=$jobname.$jobnum
ioengine={engine}
iodepth=8
size=32m
bsrange={least}-64k
ba={least}
randrepeat=1
verify=crc32c
verify_fatal=1
verify_dump=0
do_verify=1
fallocate={fallocate}
numjobs=2
group_reporting=1
[sequential]
rw=write
bsrange=4k-256k
[random]
stonewall
rw=randwrite
norandommap=0
[mixed]
stonewall
rw=randrw
rwmixread=30
verify_backlog=256
[synced]
stonewall
rw=randwrite
bs=4k
overwrite=1
fsync=64
"""


@pytest.mark.parametrize("engine", ["mmap", "sync", "psync", "pvsync2", "libaio", "io_uring", "splice"])
@pytest.mark.parametrize("options", ["size=320m"])
def test_fio(engine: str, shmfs: Any) -> None:
    needs("fio")
    mapped = engine == "mmap"  # the engine takes whole pages only
    job = JOB.format(engine=engine, least=4096 if mapped else 512, fallocate="posix" if mapped else "none")
    (shmfs.path / "job").write_text(job)
    run(shmfs, "fio", "--output-format=json", "--output=result", "--max-jobs=8", "job", cwd=shmfs.path)
    result = (shmfs.path / "result").read_text()
    results = json.loads(result[result.index("{") :])["jobs"]  # after warnings
    assert [result["jobname"] for result in results] == ["sequential", "random", "mixed", "synced"]
    for result in results:
        assert result["error"] == 0
        assert result["write"]["io_kbytes"] > 0
        assert result["read"]["total_ios"] >= result["write"]["total_ios"]  # what was verified
