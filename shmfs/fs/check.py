"""Check the whole model, as fsck does: every figure that is kept is held against what it counts."""

from shmfs.fs.directory import Directory
from shmfs.fs.inode import Inode, RegularFile
from shmfs.fs.superblock import INODE_SIZE, Superblock, xattr_space
from shmfs.mm import PAGE_SHIFT, PAGE_SIZE


def check(sb: Superblock) -> list[str]:
    """What is wrong, a sentence each; empty for a sound superblock."""
    return [*_check_pages(sb), *_check_tree(sb), *_check_inode_space(sb)]


def _check_pages(sb: Superblock) -> list[str]:
    wrong = []
    owners: dict[int, int] = {}
    for inode in sb.inodes.values():
        if not isinstance(inode, RegularFile):
            continue
        end = -1
        pages = 0
        for run in inode.pages.runs():
            pages += run.length
            if run.first < end:
                wrong.append(f"inode {inode.ino}: run at page {run.first} overlaps the one before")
            end = run.first + run.length
            for frame in range(run.frame, run.frame + run.length):
                other = owners.setdefault(frame, inode.ino)
                if other != inode.ino:
                    wrong.append(f"frame {frame} belongs to inodes {other} and {inode.ino}")
        if pages != inode.allocated:
            wrong.append(f"inode {inode.ino}: {inode.allocated} pages counted, {pages} mapped")
        size = inode.size
        if size % PAGE_SIZE and inode.pages.allocated:
            tail = inode.pages.read(size, PAGE_SIZE - size % PAGE_SIZE)
            if any(tail):
                wrong.append(
                    f"inode {inode.ino}: bytes behind the end of page {size >> PAGE_SHIFT} are not zero"
                )
    charged = sum(inode.allocated for inode in sb.inodes.values())
    if sb.blocks.used != charged:
        wrong.append(f"{sb.blocks.used} pages charged, {charged} allocated")
    if sb.store.arena.used != len(owners):
        wrong.append(f"{sb.store.arena.used} frames in use, {len(owners)} owned")
    return wrong


def _check_tree(sb: Superblock) -> list[str]:
    wrong = []
    links: dict[int, int] = {}
    for directory in sb.inodes.values():
        if not isinstance(directory, Directory):
            continue
        children = 0
        for dentry in directory:
            links[dentry.inode.ino] = links.get(dentry.inode.ino, 0) + 1
            children += isinstance(dentry.inode, Directory)
            if sb.inodes.get(dentry.inode.ino) is not dentry.inode:
                wrong.append(f"{dentry.name!r} in inode {directory.ino} names a freed inode")
            if isinstance(dentry.inode, Directory) and dentry.inode.parent is not directory:
                wrong.append(f"directory {dentry.inode.ino} does not know its parent {directory.ino}")
        listed = [dentry.name for dentry in directory.read(0)]
        if sorted(listed) != sorted([b".", b"..", *(dentry.name for dentry in directory)]):
            wrong.append(f"directory {directory.ino}: readdir does not list its names")
        if directory.nlink and directory.nlink != 2 + children:
            wrong.append(f"directory {directory.ino}: nlink {directory.nlink}, {children} subdirectories")
        for name, inode in (directory.hidden or {}).items():
            links[inode.ino] = min(1, inode.nlink)
            if sb.inodes.get(inode.ino) is not inode:
                wrong.append(f"{name!r} hidden in inode {directory.ino} names a freed inode")
    wrong += [_link_error(inode, links) for inode in sb.inodes.values() if _link_error(inode, links)]
    return wrong


def _link_error(inode: Inode, links: dict[int, int]) -> str:
    names = links.get(inode.ino, 0)
    if isinstance(inode, Directory):
        is_root = inode.parent is inode
        expected = names == (1 if inode.nlink and not is_root else 0)
    else:
        expected = names == inode.nlink
    if not expected:
        return f"inode {inode.ino}: nlink {inode.nlink}, {names} names"
    if not inode.nlink and inode.nlookup <= 0:
        return f"inode {inode.ino}: neither a name nor the kernel refers to it"
    return ""


def _check_inode_space(sb: Superblock) -> list[str]:
    charged = 0
    for inode in sb.inodes.values():
        extra_links = 0 if isinstance(inode, Directory) else max(0, inode.nlink - 1)
        if isinstance(inode, Directory) and inode.hidden is not None and inode is not sb.root:
            continue  # nobody made it
        charged += INODE_SIZE * (1 + extra_links) + xattr_space(inode)
    if sb.inode_space.used != charged:
        return [f"{sb.inode_space.used} bytes of inode space charged, {charged} used"]
    return []
