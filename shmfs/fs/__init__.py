"""What a tmpfs means: superblock, inodes, names, attributes, limits and options.

Synchronous and unaware of FUSE: time and credentials are arguments, errors are OSError, so everything can
be tested without a mount. The modules, from the inside out: `inode` and `directory`, `superblock`,
`xattr` and `acl`, `file` (content), `attributes`, `namei` (names), `check` (the invariants), `options`.
"""
