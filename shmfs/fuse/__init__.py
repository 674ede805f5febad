"""The kernel's side: requests in, replies out; mount, serve, control, unmount.

`operations` is the table of requests. Its callers are `lane` (with `protocol`), which the extension `_lane`
hands every request to, and `adapter`, pyfuse3's handlers, where the extension is missing. `session` is the
connection and what INIT agrees on, `backing` the ids by which the kernel serves native files itself, `daemon`
the process that serves a mount, `control` its socket. `launch` starts a daemon and `service` keeps it in the
background; `mounts` and `inventory` know what is mounted, `namespaces` makes the private place of a sandbox,
`doctor` (with `trials`) finds out what a machine permits.
"""
