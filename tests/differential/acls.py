"""Access control lists to set, good and bad."""


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list (tag, permissions, id) as acl(5) has it in an attribute, version 2."""
    packed = [tag.to_bytes(2, "little") + bits.to_bytes(2, "little") for tag, bits, _ in entries]
    ids = [(id_ & 0xFFFF_FFFF).to_bytes(4, "little") for _, _, id_ in entries]
    return (2).to_bytes(4, "little") + b"".join(a + b for a, b in zip(packed, ids, strict=True))


LISTS = (
    b"",
    b"bad",
    acl(),
    acl((1, 7, -1), (4, 5, -1), (0x20, 4, -1)),
    acl((1, 6, -1), (2, 7, 1000), (4, 4, -1), (0x10, 6, -1), (0x20, 0, -1)),
    acl((1, 7, -1), (2, 5, 1001), (4, 7, -1), (8, 7, 1000), (0x10, 4, -1), (0x20, 1, -1)),
)
