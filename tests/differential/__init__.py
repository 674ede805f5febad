"""Random programs of system calls, run on the kernel's tmpfs and on shmfs, and what they see compared.

`generate` makes a program from a seed, `execute` runs it with several processes (`actor`) on a file system,
`search` compares, and shrinks what differs. What is known to differ is in `masks`, and only there.
"""
