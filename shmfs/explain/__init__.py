"""The life of shared memory, live: two real processes, and what the kernel and shmfs say after each step."""
