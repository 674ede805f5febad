"""What happens on one file system now: looked at again and again, and shown by `shmfs top`.

`model` says what a look has seen, `watch` takes it, `faults` counts page faults, `rows` makes text of it for
every display, `once` prints it, `app` shows it until it is ended.
"""
