"""The kernel's tracing, each interface wrapped once: perf_event, BPF, tracefs, the process connector."""
