"""`python -m shmfs` is `shmfs`."""

from shmfs.cli import main

if __name__ == "__main__":
    main(prog_name="shmfs")
