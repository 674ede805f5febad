"""PyTorch: the workers of a DataLoader hand over their tensors in files of /dev/shm."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import REAL, run

pytestmark = REAL

PYTHON = "/usr/bin/python3"  # Debian's packages are for this one

PROGRAM = """
import sys
import warnings
import torch
import torch.multiprocessing as multiprocessing
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return index, torch.randint(0, 1 << 30, (3, 100, 100), generator=generator)

def square(shared, turn):
    shared[turn] *= shared[turn]

if __name__ == "__main__":
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than processors
    multiprocessing.set_sharing_strategy(sys.argv[1])
    expected = {index: int(tensor.sum()) for index, tensor in (Numbers()[index] for index in range(96))}
    found = {}
    for epoch in range(2):
        loader = DataLoader(Numbers(), batch_size=8, shuffle=True, num_workers=3, prefetch_factor=2)
        for indexes, tensors in loader:
            assert tensors.is_shared()
            found.update((int(index), int(tensor.sum())) for index, tensor in zip(indexes, tensors))
    assert found == expected and len(found) == 96

    shared = torch.arange(400_000, dtype=torch.int64).reshape(4, 100_000).share_memory_()
    workers = [multiprocessing.Process(target=square, args=(shared, turn)) for turn in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert torch.equal(shared, (torch.arange(400_000) ** 2).reshape(4, 100_000))
    print("ok", len(found))
"""


@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
@pytest.mark.parametrize("options", ["size=128m"])
def test_data_loader(strategy: str, shmfs: Any, tmp_path: Path) -> None:
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip(
            f"{PYTHON} has no torch; `./scripts/test --real` installs python3-torch where there is one"
        )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(shmfs, PYTHON, program, strategy) == "ok 96\n"
    tensors = [segment for segment in shmfs.segments() if segment.path.startswith("/torch_")]
    assert len(tensors) >= 24  # batches
    assert max(segment.size for segment in tensors) >= 8 * 3 * 100 * 100 * 8
    assert all(segment.evicted for segment in tensors)
    assert not any(shmfs.path.iterdir())
