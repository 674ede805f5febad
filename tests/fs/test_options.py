"""Mount options: what is understood, and the sentence for what is not."""

import errno
import os

import pytest

from shmfs.fs.options import MountOptions, OptionError, merged, parse
from tests.fs.support import errno_of

RAM = os.sysconf("SC_PHYS_PAGES")


def test_defaults():
    options = parse("")
    assert options == MountOptions()
    assert (options.blocks, options.inodes) == (RAM // 2, RAM // 2)
    assert (options.mode, options.uid, options.gid, options.inode64) == (0o1777, None, None, True)
    assert (options.reserve, options.readahead, options.allow_other) == ("lazy", 0, None)
    assert (options.vfs, options.seen, options.read_only) == (frozenset(), frozenset(), False)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("size=0", 0),
        ("size=1", 1),
        ("size=4096", 1),
        ("size=4097", 2),
        ("size=64k", 16),
        ("size=64K", 16),
        ("size=64m", 16384),
        ("size=2g", 1 << 19),
        ("size=1T", 1 << 28),
        ("size=1p", 1 << 38),
        ("size=1e", 1 << 48),
        ("size=0x1000", 1),
        ("size=0X2000", 2),
        ("size=0x10k", 4),
        ("size=010000", 1),
        ("size=0k", 0),
        ("size=m", 0),
        ("nr_blocks=K", 0),
        ("size=50%", -(-(50 * RAM * 4096 // 100) // 4096)),
        ("size=0%", 0),
        ("size=150%", -(-(150 * RAM * 4096 // 100) // 4096)),
        ("nr_blocks=7", 7),
        ("nr_blocks=1k", 1024),
        ("nr_blocks=0", 0),
        ("size=64k,nr_blocks=3", 3),
        ("nr_blocks=3,size=64k", 16),
        ("size=64k,size=8k", 2),
    ],
)
def test_sizes(text, pages):
    assert parse(text).blocks == pages


@pytest.mark.parametrize(("text", "inodes"), [("nr_inodes=0", 0), ("nr_inodes=5", 5), ("nr_inodes=2k", 2048)])
def test_inodes(text, inodes):
    assert parse(text).inodes == inodes


def test_ownership_and_the_like():
    options = parse("mode=700,uid=12,gid=0,inode32,reserve=strict,readahead=32,allow_other")
    assert (options.mode, options.uid, options.gid, options.inode64) == (0o700, 12, 0, False)
    assert (options.reserve, options.readahead, options.allow_other) == ("strict", 32, True)
    assert parse("inode32,inode64").inode64
    assert parse("mode=0755").mode == 0o755
    assert parse("reserve=prefault").reserve == "prefault"


def test_what_was_given_is_remembered():
    assert parse("size=1m,ro,uid=5").seen == {"size", "ro", "uid"}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ro", {"ro"}),
        ("ro,rw", {"rw"}),
        ("rw,ro", {"ro"}),
        ("nosuid,suid", {"suid"}),
        ("nodev,noexec,nosuid", {"nodev", "noexec", "nosuid"}),
        ("exec,noexec", {"noexec"}),
        ("sync,async", {"async"}),
        ("async,sync", {"sync"}),
        ("noatime,nodiratime", {"noatime", "nodiratime"}),
        ("nodiratime,diratime", {"diratime"}),
    ],
)
def test_the_last_of_a_pair_wins(text, kept):
    assert parse(text).vfs == kept


def test_read_only():
    assert parse("ro").read_only
    assert not parse("ro,rw").read_only


@pytest.mark.parametrize(
    "text",
    [
        "auto,nouser,users,owner,group,_netdev,nofail,defaults,noauto,user,user=joe",
        "x-systemd.automount,x-gvfs-show,X-mount.mkdir,comment=hello",
        "huge=never,mpol=default",
        ",,size=1m,, ,",
        " size=1m , ro ",
        "remount,size=1m",
    ],
)
def test_what_is_for_others_is_let_pass(text):
    assert parse(text)


BAD = [
    ("size", "size"),
    ("size=", "size"),
    ("size=x", "size"),
    ("size=-1", "size"),
    ("size=+1", "size"),
    ("size=1kb", "size"),
    ("size=1.5m", "size"),
    ("size=1z", "size"),
    ("size=0x", "size"),
    ("size=08", "size"),
    ("size=1 m", "size"),
    ("size=%", "size"),
    ("size=-5%", "size"),
    ("size=5.5%", "size"),
    ("size=999999999999999999999", "size"),
    ("size=16e", "size"),
    ("nr_blocks=10%", "nr_blocks"),
    ("nr_blocks", "nr_blocks"),
    ("nr_blocks=many", "nr_blocks"),
    ("nr_inodes=1%", "nr_inodes"),
    ("nr_inodes=", "nr_inodes"),
    ("nr_inodes=1e", "nr_inodes"),
    ("mode=8", "mode"),
    ("mode=77777", "mode"),
    ("mode=-1", "mode"),
    ("mode=0x1ff", "mode"),
    ("mode=u+rwx", "mode"),
    ("mode", "mode"),
    ("uid=root", "uid"),
    ("uid=-1", "uid"),
    ("uid=4294967295", "uid"),
    ("uid", "uid"),
    ("gid=users", "gid"),
    ("gid=1.0", "gid"),
    ("inode32=1", "inode32"),
    ("inode64=yes", "inode64"),
    ("huge=always,pages=managed", "huge"),
    ("huge=within_size,readahead=1", "huge"),
    ("huge=sometimes", "huge"),
    ("huge", "huge"),
    ("noswap=1", "noswap"),
    ("noswap,pages=managed", "noswap"),
    ("mpol", "mpol"),
    ("mpol=interleave,pages=managed", "mpol"),
    ("pages=other", "pages"),
    ("pages", "pages"),
    ("reserve=never", "reserve"),
    ("reserve", "reserve"),
    ("readahead=-1", "readahead"),
    ("readahead=257", "readahead"),
    ("readahead=32k", "readahead"),
    ("ro=1", "ro"),
    ("nosuid=0", "nosuid"),
    ("allow_other=0", "allow_other"),
    ("nofail=1", "nofail"),
    ("bogus", "bogus"),
    ("bogus=1", "bogus"),
    ("Size=1m", "Size"),
    ("=1", ""),
    ("size=1m,ro,bogus=2,uid=1", "bogus"),
]


@pytest.mark.parametrize(("text", "name"), BAD)
def test_what_is_refused_is_named_in_one_sentence(text, name):
    with pytest.raises(OptionError) as raised:
        parse(text)
    sentence = str(raised.value)
    assert raised.value.errno == errno.EINVAL
    assert name in sentence
    assert "\n" not in sentence
    assert len(sentence) < 200
    assert "Errno" not in sentence


@pytest.mark.parametrize(
    ("text", "hint"),
    [("size", "size=64m"), ("size=x", "64m"), ("reserve=x", "lazy, strict, prefault"), ("bogus", "--help")],
)
def test_the_sentence_says_what_to_do(text, hint):
    with pytest.raises(OptionError, match=hint):
        parse(text)


def test_the_kernel_agrees_on_what_is_malformed(kernel_tmpfs):
    """Of the options that both know; noswap and huge are its own."""
    ours_alone = (
        "huge",
        "noswap",
        "mpol",
        "reserve",
        "readahead",
        "user",
        "allow_other",
        "nofail",
        "ro",
        "nosu",
    )
    lenient = {"size=%", "mode=77777", "nr_inodes=1e", "size=16e", "size=999999999999999999999"}
    checked = 0
    for text, _ in BAD:
        if "," in text or text.startswith((*ours_alone, "=")) or text in lenient:
            continue
        answer = errno_of(kernel_tmpfs, text)
        if answer != "EINVAL":
            pytest.fail(f"the kernel takes {text!r}")
        checked += 1
    assert checked > 20


# ---- remount


def remount(fs, text: str) -> str:
    """The errno's name, or nothing."""
    return errno_of(fs.sb.remount, parse(text)) or ""


def test_remount_changes_the_limits(model_of):
    fs = model_of("size=1m,nr_inodes=10")
    assert remount(fs, "size=2m") == ""
    assert fs.statfs()[:2] == (512, 512)
    assert remount(fs, "nr_inodes=20") == ""
    assert fs.statfs() == (512, 512, 20, 19)
    assert remount(fs, "nr_blocks=3,nr_inodes=2") == ""
    assert fs.statfs() == (3, 3, 2, 1)
    assert (fs.sb.options.blocks, fs.sb.options.inodes) == (3, 2)


def test_remount_keeps_what_is_not_named(model_of):
    fs = model_of("size=1m,nr_inodes=10")
    remount(fs, "remount,noatime")
    assert fs.statfs() == (256, 256, 10, 9)


def test_remount_below_use(model_of):
    fs = model_of("size=1m,nr_inodes=10")
    fs.create("f")
    fs.write("f", 0, b"x" * 8192)
    assert remount(fs, "size=4k") == "EINVAL"
    assert remount(fs, "nr_inodes=1") == "EINVAL"
    assert remount(fs, "size=2m,nr_inodes=1") == "EINVAL"  # wholly or not at all
    assert remount(fs, "nr_inodes=100,size=4k") == "EINVAL"
    assert fs.statfs() == (256, 254, 10, 8)
    assert remount(fs, "size=8k,nr_inodes=2") == ""
    assert fs.statfs() == (2, 0, 2, 0)
    assert errno_of(fs.write, "f", 8192, b"x") == "ENOSPC"
    assert errno_of(fs.create, "g") == "ENOSPC"


def test_unlimited_cannot_be_limited_later(model_of):
    fs = model_of("size=0,nr_inodes=0")
    assert remount(fs, "size=1m") == "EINVAL"
    assert remount(fs, "nr_inodes=100") == "EINVAL"
    assert remount(fs, "size=0,nr_inodes=0") == ""
    assert fs.statfs() == (0, 0, 0, 0)


def test_limited_may_become_unlimited(model_of):
    fs = model_of("size=4k,nr_inodes=2")
    fs.create("f")
    assert fs.write("f", 0, b"x" * 8192) == 4096
    assert remount(fs, "size=0,nr_inodes=0") == ""
    assert fs.write("f", 4096, b"x" * 8192) == 8192
    fs.create("g")
    assert fs.statfs() == (0, 0, 0, 0)


@pytest.mark.parametrize("text", ["size=4k", "nr_blocks=1", "nr_inodes=1"])
def test_a_refused_remount_says_why(model_of, text):
    fs = model_of("size=1m,nr_inodes=10")
    fs.create("f")
    fs.write("f", 0, b"x" * 8192)
    with pytest.raises(OSError, match="in use") as raised:
        fs.sb.remount(parse(text))
    assert text.partition("=")[0].removeprefix("nr_b") in raised.value.strerror + " locks"


@pytest.mark.parametrize(
    ("text", "newer", "expected"),
    [
        ("size=1m,mode=700", "remount,size=2m", "mode=700,size=2m"),
        ("size=1m", "nr_blocks=3", "nr_blocks=3"),
        ("", "size=2m,nofail", "size=2m"),
        ("ro,size=1m", "", "ro,size=1m"),
    ],
)
def test_a_remount_replaces_what_it_names(text, newer, expected):
    assert merged(text, newer) == expected
