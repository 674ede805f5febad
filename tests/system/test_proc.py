"""Parsers of /proc, on processes of this machine and on lines that a careless parser gets wrong."""

import os
import subprocess
import threading

import pytest

from shmfs.system import maps, mounts, proc


def test_stat_of_this_process():
    found = proc.stat("self")
    assert (found.pid, found.parent, found.state) == (os.getpid(), os.getppid(), "R")
    assert not found.is_dead
    assert not found.is_kernel_thread
    assert found.command == proc.read("self", "comm").removesuffix(b"\n")


def test_a_command_with_parentheses_and_blanks(tmp_path):
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(4, 53))
    (tmp_path / "7/stat").write_bytes(b"7 (a) (R 1) S " + fields.encode())
    found = proc.stat(7, str(tmp_path))
    assert found == (7, b"a) (R 1", "S", 4, 9, 10, 12, 22, 52)
    (tmp_path / "7/stat").write_bytes(b"")
    with pytest.raises(ProcessLookupError):
        proc.stat(7, str(tmp_path))


def test_a_zombie_and_its_exit_code():
    with subprocess.Popen(["false"]) as process:
        while not (found := proc.stat(process.pid)).is_dead:
            pass
        assert os.waitstatus_to_exitcode(found.exit_code) == 1
        assert process.pid not in proc.parents()
        assert process.pid in proc.descendants({os.getpid()}, proc.parents(zombies=True))
    assert (proc.state(process.pid), proc.command(process.pid)) == ("", None)


def test_a_descriptor_of_proc_is_as_good_as_its_path():
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        assert proc.mount_namespace("self", descriptor) == proc.mount_namespace("self")
        assert proc.parents(descriptor)[os.getpid()] == os.getppid()
        assert mounts.mounts("self", descriptor) == mounts.mounts()
    finally:
        os.close(descriptor)


def test_threads():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    assert {os.getpid(), thread.native_id} <= set(proc.threads("self"))
    ended.set()
    thread.join()


def test_words_of_a_line():
    text = b"Name:\tUid: 7\nUid:\t0\t1\t2\t3\nGroups:\t \n"
    assert proc.line_of(text, b"Uid:") == [b"0", b"1", b"2", b"3"]
    assert proc.line_of(text, b"Name:") == [b"Uid:", b"7"]
    assert proc.line_of(text, b"Groups:") == proc.line_of(text, b"Gid:") == []


def test_mountinfo_with_blanks_in_names(tmp_path):
    (tmp_path / "7").mkdir()
    line = b"36 35 98:0 /mnt1 /a\\040\\134b rw,noatime master:1 - ext3 /dev/ro\\011ot rw,errors=continue\n"
    (tmp_path / "7/mountinfo").write_bytes(line)
    found = mounts.mounts(7, str(tmp_path))
    assert found == [("/a \\b", "98:0", "ext3", "rw,noatime,rw,errors=continue", "/dev/ro\tot")]


def test_mappings_of_an_inode_are_not_those_of_one_that_begins_alike(monkeypatch):
    text = (
        b"7f00-7f01 rw-s 00000000 00:39 12                      /a\\012b (deleted)\n"
        b"7f01-7f02 r--p 00001000 00:39 123                     /c\n"
        b"7f02-7f03 rw-p 00000000 00:00 0 \n"
    )
    monkeypatch.setattr(proc, "read", lambda pid, name: text)
    first, second, anonymous = maps.mappings(1)
    assert first == (0x7F00, 0x7F01, "rw-s", 0, "0:57", 12, "/a\nb", True)
    assert (first.is_shared, second.is_shared) == (True, False)
    assert (second.offset, second.inode, second.path) == (4096, 123, "/c")
    assert (anonymous.device, anonymous.inode, anonymous.path) == ("0:0", 0, "")
    assert maps.mappings(1, "0:57") == [first, second]
    assert maps.mappings(1, "0:57", 12) == [first]
    assert maps.mappings(1, "0:57", 1) == maps.mappings(1, "0:58") == []
