"""Watch processes: attribute their faults to segments, and write down what is seen.

Unless a module says otherwise, its code runs in the thread `shmfs-recorder` of the process that supervises or
records, never in the daemon: a fault must not wait for the one who writes it down. Nothing here may touch the
mount, whose faults it may hold up. `Recorder.event`, `ended` and `catch_up` are called from any thread.
"""
