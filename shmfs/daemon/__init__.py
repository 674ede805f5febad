"""The process that serves one mount: start and end, control socket, statistics, log of events."""
