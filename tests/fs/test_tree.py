"""The tree against a plain model of nested dicts: errors, listings, links and what everything costs."""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmfs.fs import file, namei, options, xattr
from shmfs.fs.check import check
from shmfs.fs.inode import Inode
from shmfs.fs.superblock import INODE_SIZE, ROOT_INO, Credentials, Superblock, xattr_space
from tests.fs.support import PAGE, Clock

CRED = Credentials(1000, 1000)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


class RefusedError(Exception):
    """The plain model's error."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Node:
    """A plain inode. `names` is a dict for directories alone."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.names: dict[bytes, Node] = {}
        self.parent: Node | None = None
        self.links = 0
        self.held = 0
        self.opens: list[int] = []
        self.target = b""
        self.attributes: dict[bytes, bytes] = {}
        self.pages: set[int] = set()
        self.size = 0
        self.linkable = False

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def subdirectories(self) -> int:
        return sum(node.is_directory for node in self.names.values())

    def above(self, other: "Node") -> bool:
        """Whether this is `other`, or one of the directories that it lies in."""
        node: Node | None = other
        while node is not None and node is not self:
            node = node.parent
        return node is self


class Plain:
    """A tmpfs in a few lines. Nothing is counted on the way: costs are summed up when they are asked for."""

    def __init__(self, pages: int, inodes: int) -> None:
        self.page_limit, self.inode_limit = pages, inodes * INODE_SIZE
        self.root = Node(stat.S_IFDIR)
        self.root.links = 1
        self.every: set[Node] = {self.root}

    def live(self) -> list[Node]:
        self.every = {node for node in self.every if node.links or node.held}
        return list(self.every)

    def pages(self) -> int:
        return sum(len(node.pages) + (len(node.target) > 127) for node in self.live())

    def space(self) -> int:
        total = 0
        for node in self.live():
            total += INODE_SIZE * max(1, node.links)
            total += sum(40 + len(name) + len(value) for name, value in node.attributes.items())
        return total

    def need(self, space: int = 0, pages: int = 0) -> None:
        if self.inode_limit and self.space() + space > self.inode_limit:
            raise RefusedError(errno.ENOSPC)
        if self.page_limit and self.pages() + pages > self.page_limit:
            raise RefusedError(errno.ENOSPC)

    def find(self, directory: Node, name: bytes) -> Node:
        if not directory.is_directory:
            raise RefusedError(errno.ENOTDIR)
        if len(name) > 255:
            raise RefusedError(errno.ENAMETOOLONG)
        if name not in directory.names:
            raise RefusedError(errno.ENOENT)
        return directory.names[name]

    def may_create(self, directory: Node, name: bytes) -> None:
        if not directory.is_directory:
            raise RefusedError(errno.ENOTDIR)
        if len(name) > 255:
            raise RefusedError(errno.ENAMETOOLONG)
        if not directory.links:
            raise RefusedError(errno.ENOENT)
        if name in directory.names:
            raise RefusedError(errno.EEXIST)

    def enter(self, directory: Node, name: bytes, node: Node) -> None:
        directory.names[name] = node
        node.links += 1
        if node.is_directory:
            node.parent = directory
        self.every.add(node)

    def create(self, directory: Node, name: bytes, kind: int, target: bytes = b"") -> Node:
        self.may_create(directory, name)
        if len(target) > 4095:
            raise RefusedError(errno.ENAMETOOLONG)
        self.need(INODE_SIZE, len(target) > 127)
        node = Node(kind)
        node.target = target
        self.enter(directory, name, node)
        return node

    def link(self, node: Node, directory: Node, name: bytes) -> None:
        self.may_create(directory, name)
        if node.is_directory:
            raise RefusedError(errno.EPERM)
        if not node.links and not node.linkable:
            raise RefusedError(errno.ENOENT)
        self.need(INODE_SIZE if node.links else 0)
        node.linkable = False
        self.enter(directory, name, node)

    def unlink(self, directory: Node, name: bytes) -> None:
        node = self.find(directory, name)
        if node.is_directory:
            raise RefusedError(errno.EISDIR)
        del directory.names[name]
        node.links -= 1

    def rmdir(self, directory: Node, name: bytes) -> None:
        node = self.find(directory, name)
        if not node.is_directory:
            raise RefusedError(errno.ENOTDIR)
        if node.names:
            raise RefusedError(errno.ENOTEMPTY)
        del directory.names[name]
        node.links -= 1

    def rename(self, old: Node, name: bytes, new: Node, new_name: bytes, flags: int) -> None:
        if not (old.is_directory and new.is_directory):
            raise RefusedError(errno.ENOTDIR)
        if flags > 7 or (flags & EXCHANGE and flags != EXCHANGE):
            raise RefusedError(errno.EINVAL)
        node = self.find(old, name)
        victim = new.names.get(new_name)
        if victim is None:
            self.may_create(new, new_name)
            if flags & EXCHANGE:
                raise RefusedError(errno.ENOENT)
        elif flags & NOREPLACE:
            raise RefusedError(errno.EEXIST)
        if node.is_directory and node.above(new):
            raise RefusedError(errno.EINVAL)
        if victim is node:
            return
        if flags & EXCHANGE:
            assert victim is not None
            if victim.is_directory and victim.above(old):
                raise RefusedError(errno.EINVAL)
            old.names[name], new.names[new_name] = victim, node
            for moved, parent in ((victim, old), (node, new)):
                if moved.is_directory:
                    moved.parent = parent
            return
        if victim is not None:
            if victim.is_directory and not node.is_directory:
                raise RefusedError(errno.EISDIR)
            if node.is_directory and not victim.is_directory:
                raise RefusedError(errno.ENOTDIR)
            if victim.names:
                raise RefusedError(errno.ENOTEMPTY)
        if flags & WHITEOUT:
            self.need(INODE_SIZE)
        del old.names[name]
        if flags & WHITEOUT:
            self.enter(old, name, Node(stat.S_IFCHR))
        if victim is not None:
            victim.links -= 1
        node.links -= 1
        self.enter(new, new_name, node)

    def setxattr(self, node: Node, name: bytes, value: bytes) -> None:
        self.need(40 + len(name) + len(value))
        node.attributes[name] = value

    def removexattr(self, node: Node, name: bytes) -> None:
        if name not in node.attributes:
            raise RefusedError(errno.ENODATA)
        del node.attributes[name]

    def write(self, node: Node, page: int, count: int) -> int:
        room = self.page_limit - self.pages() if self.page_limit else 1 << 30
        done = 0
        for index in range(page, page + count):
            if index not in node.pages:
                if not room:
                    break
                room -= 1
                node.pages.add(index)
            done += 1
        if not done:
            raise RefusedError(errno.ENOSPC)
        node.size = max(node.size, (page + done) * PAGE)
        return done * PAGE

    def truncate(self, node: Node, page: int) -> None:
        node.pages = {index for index in node.pages if index < page}
        node.size = page * PAGE


NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"\xff", b"n" * 255, b"n" * 256])
PICK = st.integers(0, 1000)


class TreeMachine(RuleBasedStateMachine):
    """The same calls on both; `both` compares what they answer."""

    @initialize(tight=st.booleans())
    def start(self, tight: bool) -> None:
        text = "nr_inodes=9,size=24k" if tight else "nr_inodes=0,size=0"
        self.clock = Clock()
        self.sb = Superblock(options.parse(text), clock=self.clock)
        self.plain = Plain(6, 9) if tight else Plain(0, 0)
        self.inode_of: dict[Node, Inode] = {self.plain.root: self.sb.root}

    def teardown(self) -> None:
        """Everything is forgotten and removed: the root alone is left."""
        if not hasattr(self, "sb"):
            return
        for node in self.plain.live():
            for flags in node.opens:
                file.regular(self.inode_of[node]).release(flags)
            if node.held:
                self.sb.forget(self.inode_of[node].ino, node.held)
        self.empty(self.sb.root)
        left = list(self.sb.inodes), self.sb.blocks.used, self.sb.inode_space.used
        wrong = check(self.sb)
        self.sb.store.arena.close()
        assert left == ([ROOT_INO], 0, INODE_SIZE + xattr_space(self.sb.root))
        assert wrong == []

    def empty(self, directory: Any) -> None:
        for dentry in directory:
            if stat.S_ISDIR(dentry.inode.mode):
                self.empty(dentry.inode)
                namei.rmdir(self.sb, directory, dentry.name)
            else:
                namei.unlink(self.sb, directory, dentry.name)

    # ---- choosing

    def node(self, pick: int, wanted: Callable[[Node], bool] = lambda node: True) -> Node:
        """One of the live nodes that are wanted, or of all."""
        live = sorted(self.plain.live(), key=lambda node: self.inode_of[node].ino)
        some = [node for node in live if wanted(node)] or live
        return some[pick % len(some)]

    def directory(self, pick: int) -> Node:
        """Mostly a directory; one in ten times whatever there is."""
        return self.node(pick // 10, lambda node: node.is_directory) if pick % 10 else self.node(pick // 10)

    def regular(self, pick: int) -> Node:
        return self.node(pick, lambda node: node.kind == stat.S_IFREG)

    def both(self, plain: Callable[[], Any], real: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Both results, or nothing where both fail with the same error."""
        try:
            expected, refused = plain(), 0
        except RefusedError as refusal:
            expected, refused = None, refusal.errno
        try:
            result, failed = real(), 0
        except OSError as failure:
            result, failed = None, failure.errno or 0
        assert errno.errorcode.get(failed) == errno.errorcode.get(refused)
        self.clock.tick()
        return None if failed else (expected, result)

    # ---- rules

    @rule(
        where=PICK,
        name=NAMES,
        kind=st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFIFO]),
    )
    def create(self, where: int, name: bytes, kind: int) -> None:
        directory = self.directory(where)
        made = self.both(
            lambda: self.plain.create(directory, name, kind),
            lambda: namei.create(self.sb, self.inode_of[directory], name, kind | 0o600, CRED),
        )
        if made:
            self.inode_of[made[0]] = made[1]

    @rule(where=PICK, name=NAMES, length=st.sampled_from([1, 127, 128, 4095, 4096]))
    def symlink(self, where: int, name: bytes, length: int) -> None:
        directory, target = self.directory(where), b"t" * length
        made = self.both(
            lambda: self.plain.create(directory, name, stat.S_IFLNK, target),
            lambda: namei.symlink(self.sb, self.inode_of[directory], name, target, CRED),
        )
        if made:
            self.inode_of[made[0]] = made[1]

    @rule(what=PICK, where=PICK, name=NAMES)
    def link(self, what: int, where: int, name: bytes) -> None:
        node = self.node(what, lambda node: not node.is_directory)
        directory = self.directory(where)
        self.both(
            lambda: self.plain.link(node, directory, name),
            lambda: namei.link(self.sb, self.inode_of[node], self.inode_of[directory], name),
        )

    @rule(where=PICK, name=NAMES)
    def unlink(self, where: int, name: bytes) -> None:
        directory = self.directory(where)
        self.both(
            lambda: self.plain.unlink(directory, name),
            lambda: namei.unlink(self.sb, self.inode_of[directory], name),
        )

    @rule(where=PICK, name=NAMES)
    def rmdir(self, where: int, name: bytes) -> None:
        directory = self.directory(where)
        self.both(
            lambda: self.plain.rmdir(directory, name),
            lambda: namei.rmdir(self.sb, self.inode_of[directory], name),
        )

    @rule(
        where=PICK,
        name=NAMES,
        to=PICK,
        new_name=NAMES,
        flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE, WHITEOUT, WHITEOUT, 3, 5, 6, 8]),
    )
    def rename(self, where: int, name: bytes, to: int, new_name: bytes, flags: int) -> None:
        source, target = self.directory(where), self.directory(to)
        done = self.both(
            lambda: self.plain.rename(source, name, target, new_name, flags),
            lambda: namei.rename(
                self.sb, self.inode_of[source], name, self.inode_of[target], new_name, flags, CRED
            ),
        )
        left = source.names.get(name)
        if done and left is not None and left not in self.inode_of:
            whiteout = namei.lookup(self.inode_of[source], name)
            assert (whiteout.mode, whiteout.rdev) == (stat.S_IFCHR, 0)
            self.inode_of[left] = whiteout

    @rule(where=PICK)
    def tmpfile(self, where: int) -> None:
        directory = self.directory(where)

        def plain() -> Node:
            if not directory.is_directory:
                raise RefusedError(errno.ENOTDIR)
            self.plain.need(INODE_SIZE)
            node = Node(stat.S_IFREG)
            node.held, node.linkable = 1, True
            self.plain.every.add(node)
            return node

        made = self.both(plain, lambda: namei.tmpfile(self.sb, self.inode_of[directory], 0o600, CRED))
        if made:
            self.inode_of[made[0]] = made[1]
            made[1].nlookup += 1

    @rule(what=PICK, name=st.sampled_from([b"user.a", b"user.b"]), size=st.sampled_from([0, 10, 500, 3000]))
    def setxattr(self, what: int, name: bytes, size: int) -> None:
        node = self.node(what)
        self.both(
            lambda: self.plain.setxattr(node, name, b"v" * size),
            lambda: xattr.put(self.sb, self.inode_of[node], name, b"v" * size),
        )

    @rule(what=PICK, name=st.sampled_from([b"user.a", b"user.b"]))
    def removexattr(self, what: int, name: bytes) -> None:
        node = self.node(what, lambda node: bool(node.attributes))
        self.both(
            lambda: self.plain.removexattr(node, name),
            lambda: xattr.remove(self.sb, self.inode_of[node], name),
        )

    @rule(where=PICK, name=NAMES)
    def lookup(self, where: int, name: bytes) -> None:
        directory = self.directory(where)
        found = self.both(
            lambda: self.plain.find(directory, name),
            lambda: namei.lookup(self.inode_of[directory], name),
        )
        if found:
            assert found[1] is self.inode_of[found[0]]
            found[0].held += 1
            found[1].nlookup += 1

    @precondition(lambda self: any(node.held > len(node.opens) for node in self.plain.live()))
    @rule(what=PICK, everything=st.booleans())
    def forget(self, what: int, everything: bool) -> None:
        """Open files stay referenced, as they do by the kernel."""
        node = self.node(what, lambda node: node.held > len(node.opens))
        count = node.held - len(node.opens) if everything else 1
        node.held -= count
        self.sb.forget(self.inode_of[node].ino, count)

    @precondition(lambda self: any(node.kind == stat.S_IFREG for node in self.plain.live()))
    @rule(what=PICK, flags=st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR]))
    def open(self, what: int, flags: int) -> None:
        node = self.regular(what)
        inode = file.regular(self.inode_of[node])
        inode.open(flags)
        inode.nlookup += 1
        node.held += 1
        node.opens.append(flags)

    @precondition(lambda self: any(node.opens for node in self.plain.live()))
    @rule(what=PICK)
    def release(self, what: int) -> None:
        node = self.node(what, lambda node: bool(node.opens))
        file.regular(self.inode_of[node]).release(node.opens.pop())
        node.held -= 1
        self.sb.forget(self.inode_of[node].ino, 1)

    @precondition(lambda self: any(node.kind == stat.S_IFREG for node in self.plain.live()))
    @rule(what=PICK, page=st.integers(0, 6), count=st.integers(1, 4))
    def write(self, what: int, page: int, count: int) -> None:
        node = self.regular(what)
        inode = file.regular(self.inode_of[node])
        done = self.both(
            lambda: self.plain.write(node, page, count),
            lambda: file.write(self.sb, inode, page * PAGE, b"x" * count * PAGE),
        )
        assert done is None or done[0] == done[1]

    @precondition(lambda self: any(node.kind == stat.S_IFREG for node in self.plain.live()))
    @rule(what=PICK, page=st.integers(0, 6))
    def truncate(self, what: int, page: int) -> None:
        node = self.regular(what)
        inode = file.regular(self.inode_of[node])
        self.both(lambda: self.plain.truncate(node, page), lambda: file.resize(self.sb, inode, page * PAGE))

    # ---- what holds after every step

    @invariant()
    def the_model_is_sound(self) -> None:
        if hasattr(self, "sb"):
            assert check(self.sb) == []

    @invariant()
    def both_are_the_same(self) -> None:
        if not hasattr(self, "sb"):
            return
        live = self.plain.live()
        assert self.sb.blocks.used == self.plain.pages()
        assert self.sb.inode_space.used == self.plain.space()
        assert set(self.sb.inodes) == {self.inode_of[node].ino for node in live}
        for node in live:
            inode: Any = self.inode_of[node]
            assert self.sb.inodes[inode.ino] is inode
            assert stat.S_IFMT(inode.mode) == node.kind
            assert inode.nlookup == node.held
            assert inode.allocated == len(node.pages) + (len(node.target) > 127)
            assert xattr.names(inode) == sorted(node.attributes, reverse=True)
            if node.is_directory:
                assert inode.nlink == (2 + node.subdirectories if node.links else 0)
                assert inode.size == 40 + 20 * len(node.names)
                listed = [(dentry.name, dentry.inode) for dentry in inode.read(2)]
                assert listed == [(name, self.inode_of[n]) for name, n in reversed(node.names.items())]
            else:
                assert inode.nlink == node.links
                assert inode.size == node.size + len(node.target)


TestTree = TreeMachine.TestCase
