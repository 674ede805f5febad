"""shmfs: tmpfs in user space with the lights on."""

__version__ = "0.1.0"
