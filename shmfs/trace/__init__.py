"""Instruments, records, one stream, reporters: what happened and who did it. Imports nothing of shmfs."""
