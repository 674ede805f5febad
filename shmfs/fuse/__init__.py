"""The kernel's side: requests in, replies out; mount, serve, control, unmount.

`operations` is the table of requests, `adapter` its caller from pyfuse3, `session` the connection and
what is agreed on in INIT, `daemon` the process that serves a mount, `control` its socket, `launch` how others
start it, `mounts` what is mounted where, `namespaces` the private place of a sandbox.
"""
