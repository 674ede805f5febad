"""The kernel's tracing, each interface wrapped once: perf_event, BPF, tracefs, the process connector.

Nothing here starts a thread, and no object is shared by two: what a recorder opens, its thread reads.
`Perf` is opened by the thread that starts the recorder, before that runs.
"""
