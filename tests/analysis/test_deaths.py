"""Deaths and refusals: what is known of each comes in any order, and each is explained once."""

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shmfs.analysis import deaths, refused_calls, surveys
from shmfs.analysis.deaths import UNKNOWN_PAGE, Deaths, Touched
from shmfs.analysis.surveys import HOLDERS
from shmfs.events.records import Holder, Process, Refusal, Segment, Statistics

MIB = 1 << 20
PID, INODE = 77, 5
KILLED = 128 + 7


def segment(inode: int, path: str, size: int, resident: int) -> Segment:
    return Segment(
        inode=inode, path=path, size=size, resident=resident, peak_resident=resident, page_ins=None,
        created_by=Process(9, "maker", 1), opened_by=[], created=0, nlink=1, open_handles=0, evicted=False,
        refused=0,
    )  # fmt: skip


def statistics(*segments: Segment, limit: int = 8 * MIB) -> Statistics:
    used = sum(one.resident for one in segments) * 4096
    return Statistics(
        mount="/dev/shm", device="0:57", options="", size_limit=limit, used=used, peak=used, inode_limit=0,
        inodes_used=1, inodes_peak=1, readahead=0, store="native", pid=1, started=0, lost_records=0, notes=[],
        segments=list(segments),
    )  # fmt: skip


FULL = statistics(segment(INODE, "/a", 32 * MIB, 2048))
EMPTY = statistics(segment(INODE, "/a", 32 * MIB, 10))


def refusal(**fields: Any) -> Refusal:
    made = Refusal(
        errno="SIGBUS", call="page fault", limit_name="size", limit=8 * MIB, asked=4096, pid=PID, tid=PID,
        process="x", path="/a", inode=INODE, page=2048, time=1000, holders=[Holder("/a", 8 * MIB, PID, "x")],
        enough="32m",
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def write(**fields: Any) -> Refusal:
    return refusal(
        **{"errno": "ENOSPC", "call": "write", "asked": MIB, "limit": 0, "page": None, "holders": []} | fields
    )


def touched(**fields: Any) -> Touched:
    return Touched(0, PID, PID, "x", 3, INODE, "/a", 2048, 1000)._replace(**fields)


def end(pid: int = PID, **fields: Any) -> Touched:
    return Touched(0, pid, pid, "x", -1, 0, "", None, 2000)._replace(**fields)


class Told:
    """Deaths, and what it has said and written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, survey: Statistics | None, **options: bool) -> None:
        self.now = 100.0
        self.asked = 0
        self.survey = survey
        self.said: list[str] = []
        self.written: list[dict[str, Any]] = []
        self.deaths = Deaths(self._ask, self.said.append, self._write, **options)
        for module in (deaths, refused_calls):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def _ask(self) -> Statistics | None:
        self.asked += 1
        return self.survey

    def _write(self, **event: Any) -> None:
        self.written.append(event)

    def refuse(self, one: Refusal) -> None:
        """The daemon reports it."""
        self.deaths.told({"event": "refusal", "refusal": msgspec.to_builtins(one)})

    def wait(self) -> None:
        """All that may still come must have come."""
        self.deaths.settle()
        self.now += 1
        self.deaths.settle()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    return lambda survey=FULL, **options: Told(monkeypatch, survey, **options)


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("order", list(itertools.permutations(["refused", "failed", "ended"])))
def test_one_death_is_one_message_in_any_order(
    told: Callable[..., Told], order: list[str], slow: bool, seen: bool
) -> None:
    one = told(signals_seen=seen)
    happen = {
        "refused": lambda: one.refuse(refusal()),
        "failed": lambda: one.deaths.failed(touched()),
        "ended": lambda: one.deaths.ended(end(), KILLED),
    }
    for name in order:
        happen[name]()
        one.deaths.settle()
        one.now += 0.1 if slow else 0.0
    one.wait()
    one.deaths.settle(last=True)
    assert one.said == [
        "SIGBUS: x (pid 77) touched page 2048 of /a, but the mount is full (size=8m). Held by: /a 8 MiB "
        "(created by x, pid 77). At least size=32m is needed; to find the value, run again with `-o size=0` "
        "and read the peak."
    ]
    [death] = one.deaths.deaths
    assert (death.page, death.limit, death.enough, death.held_after) == (2048, 8 * MIB, "32m", 0)
    assert death.fatal in ((True,) if not slow else (True, None))
    assert [event["event"] for event in one.written] == ["sigbus"]
    assert one.deaths.refusals == []


def test_where_no_signals_are_seen_the_refusal_is_the_proof(told: Callable[..., Told]) -> None:
    one = told(signals_seen=False)
    one.refuse(refusal())
    assert one.said == []
    one.wait()
    [death] = one.deaths.deaths
    assert (death.page, death.path, death.fatal) == (2048, "/a", None)


def test_a_refused_page_that_no_signal_followed(told: Callable[..., Told]) -> None:
    one = told()
    one.refuse(refusal())
    one.wait()
    assert one.deaths.deaths == []
    assert [known.page for known in one.deaths.refusals] == [2048]


def test_a_page_in_of_an_unknown_process_explains_one_death(told: Callable[..., Told]) -> None:
    """pyfuse3's own handlers know no caller of READ."""
    one = told()
    one.refuse(refusal(pid=0, tid=0, process="", call=""))
    one.deaths.failed(touched())
    one.deaths.ended(end(), KILLED)
    one.wait()
    one.deaths.settle(last=True)
    assert len(one.said) == 1
    assert one.said[0].startswith("SIGBUS: x (pid 77) touched page 2048 of /a, but the mount is full")


def test_a_page_in_of_an_unknown_call_is_no_proof_of_a_death(told: Callable[..., Told]) -> None:
    one = told(signals_seen=False)
    one.refuse(refusal(call=""))
    one.wait()
    assert (one.deaths.deaths, len(one.deaths.refusals)) == ([], 1)


def test_an_exit_by_signal_7_is_proof_where_no_fault_is_seen(told: Callable[..., Told]) -> None:
    one = told(signals_seen=False)
    one.refuse(refusal(call=""))
    one.deaths.ended(end(), KILLED)
    one.wait()
    [death] = one.deaths.deaths
    assert (death.page, death.fatal, one.deaths.refusals) == (2048, True, [])


def test_without_a_refusal_the_file_system_is_surveyed_at_the_signal(told: Callable[..., Told]) -> None:
    one = told()
    one.deaths.survey(PID)
    one.survey = EMPTY  # the files are gone a moment later
    one.deaths.failed(touched())
    one.wait()
    [death] = one.deaths.deaths
    assert (death.reason, death.limit, death.enough) == ("the mount is full", 8 * MIB, "32m")
    assert death.held_after > 0
    assert [holder.path for holder in death.holders] == ["/a"]
    assert one.asked == 1


@pytest.mark.parametrize("used", [10, 2048])
@pytest.mark.parametrize("shrunk", [999, 1001])
def test_a_file_that_shrank_after_the_fault(told: Callable[..., Told], used: int, shrunk: int) -> None:
    file = segment(INODE, "/a", MIB, used)
    file.shrunk = shrunk
    one = told(statistics(file))
    one.deaths.failed(touched())
    one.wait()
    [death] = one.deaths.deaths
    if shrunk < 1000:
        assert death.reason == "that is beyond the end of the file, whose size is 1 MiB"
    elif used == 2048:
        assert death.reason == f"{surveys.UNSURE}, which it is now; the size of the file has changed since"
    else:
        assert death.reason.startswith(f"{surveys.UNSURE}; a moment later neither was so")


@pytest.mark.parametrize("store", ["managed", "native"])
def test_a_file_that_grew_after_the_fault(told: Callable[..., Told], store: str) -> None:
    """A managed page that the store did not refuse lay behind the end."""
    file = segment(INODE, "/a", 32 * MIB, 2048)
    file.grown = 1001
    survey = statistics(file)
    survey.store = store
    one = told(survey)
    one.deaths.failed(touched())
    one.wait()
    [death] = one.deaths.deaths
    beyond = "that was beyond the end of the file, which has grown since"
    unsure = f"{surveys.UNSURE}, which it is now; the size of the file has changed since"
    assert death.reason == (beyond if store == "managed" else unsure)
    assert (death.limit > 0) == (store == "native")


def test_a_survey_is_of_one_signal(told: Callable[..., Told]) -> None:
    """A program that handles it touches another file, much later."""
    one = told()
    one.deaths.survey(PID)
    one.deaths.failed(touched())
    one.wait()
    one.survey = statistics(segment(6, "/b", 4096, 1), segment(7, "/c", 8 * MIB, 2047))
    one.deaths.survey(PID)
    one.deaths.failed(touched(inode=6, path="/b", page=0, time=5000))
    one.wait()
    assert [[holder.path for holder in death.holders] for death in one.deaths.deaths] == [
        ["/a"],
        ["/c", "/b"],
    ]


def test_a_page_beyond_the_end_is_not_the_fault_of_a_limit(told: Callable[..., Told]) -> None:
    one = told(statistics(segment(INODE, "/a", 4096, 1)))
    one.deaths.failed(touched(page=1))
    one.deaths.settle()
    assert one.said == [
        "SIGBUS: x (pid 77) touched page 1 of /a, but that is beyond the end of the file, whose size is "
        "4 KiB."
    ]


def test_nobody_can_say_what_the_file_system_held(told: Callable[..., Told]) -> None:
    one = told(None)
    one.deaths.failed(touched())
    one.deaths.refused(write())
    one.wait()
    assert one.deaths.deaths[0].limit == 0
    assert "who held how much is not known" in one.said[1]
    assert one.said[0] == "ENOSPC: x (pid 77) asked for 1 MiB for /a (write), but size is reached." + (
        " At least size=32m is needed; to find the value, run again with `-o size=0` and read the peak."
    )


def test_full_is_said_only_where_that_was_seen(told: Callable[..., Told]) -> None:
    one = told(EMPTY)
    one.deaths.failed(touched())
    one.wait()
    [death] = one.deaths.deaths
    assert (death.limit, death.holders, death.enough) == (0, [], None)
    assert "a moment later neither was so (40 KiB of 8 MiB in use)" in death.reason


def test_all_of_a_process_are_counted_but_one_is_reported(told: Callable[..., Told]) -> None:
    """Also those that are settled after the process has ended."""
    one = told()
    one.refuse(refusal())
    for page in range(2050, 2047, -1):
        one.deaths.failed(touched(page=page, time=page))
    one.wait()
    one.deaths.failed(touched(page=2051, time=1999))
    one.deaths.ended(end(), 0)
    one.deaths.settle()
    one.deaths.failed(touched(page=2052, time=1999))
    one.wait()
    [death] = one.deaths.deaths
    assert (death.page, death.count, death.fatal) == (2048, 5, False)
    assert len(one.said) == 1


def test_the_first_of_several_faults_is_reported(told: Callable[..., Told]) -> None:
    one = told()
    for page in (12, 10, 11):
        one.deaths.failed(touched(page=page, time=page))
    one.wait()
    assert [(death.page, death.count) for death in one.deaths.deaths] == [(10, 3)]


def test_a_pid_that_is_used_again(told: Callable[..., Told]) -> None:
    one = told()
    for begin in (1000, 11_000):
        one.deaths.failed(touched(time=begin))
        one.deaths.ended(end(time=begin + 10), KILLED)
        one.wait()
        one.now += 10
    assert [(death.time, death.fatal, death.count) for death in one.deaths.deaths] == [
        (1000, True, 1),
        (11_000, True, 1),
    ]


def test_the_newest_is_the_one_that_ended_it(told: Callable[..., Told]) -> None:
    one = told()
    for when, inode in ((1, 5), (2, 6), (3, 5)):
        one.deaths.failed(touched(inode=inode, time=when))
        one.wait()
    one.deaths.ended(end(), KILLED)
    one.wait()
    assert [(death.inode, death.count, death.fatal) for death in one.deaths.deaths] == [
        (5, 2, True),
        (6, 1, False),
    ]


@pytest.mark.parametrize(("status", "fatal"), [(None, None), (0, False), (128 + 9, False), (KILLED, True)])
def test_how_it_ended(told: Callable[..., Told], status: int | None, fatal: bool | None) -> None:
    one = told()
    one.deaths.failed(touched())
    one.deaths.ended(end(), status)
    one.wait()
    assert [death.fatal for death in one.deaths.deaths] == [fatal]


def test_two_sources_report_one_end(told: Callable[..., Told]) -> None:
    one = told()
    one.deaths.ended(end(process=-1, command=""), KILLED)
    one.deaths.ended(end(), None)
    one.wait()
    one.deaths.ended(end(), KILLED)
    one.wait()
    assert one.said == [f"SIGBUS: x (pid 77) was killed by signal 7: {UNKNOWN_PAGE}."]
    assert one.written[0]["command"] == "x"


def test_a_signal_that_was_sent(told: Callable[..., Told]) -> None:
    one = told()
    one.deaths.stray(PID, "process 9 sent it", 1000)
    one.deaths.ended(end(), KILLED)
    one.wait()
    assert one.said == ["SIGBUS: x (pid 77) was killed by signal 7: process 9 sent it."]
    assert one.deaths.deaths[0].limit == 0
    assert one.asked == 0


@pytest.mark.parametrize("first", ["stray", "failed"])
@pytest.mark.parametrize(("sent", "fatal"), [(500, [True]), (1500, [False, True])])
def test_a_signal_that_was_sent_and_one_of_a_fault(
    told: Callable[..., Told], first: str, sent: int, fatal: list[bool]
) -> None:
    """The newer one ended it, in whichever order they are reported."""
    one = told()
    both = [lambda: one.deaths.stray(PID, "process 9 sent it", sent), lambda: one.deaths.failed(touched())]
    for happen in both if first == "stray" else reversed(both):
        happen()
    one.wait()
    one.deaths.ended(end(), KILLED)
    one.wait()
    assert [death.fatal for death in one.deaths.deaths] == fatal


def test_a_stray_signal_of_a_process_that_lives_is_no_death(told: Callable[..., Told]) -> None:
    one = told()
    one.deaths.stray(PID, "process 9 sent it", 500)
    one.deaths.ended(end(), 0)
    one.wait()
    assert (one.said, one.deaths.deaths) == ([], [])


def test_many_holders_are_counted(told: Callable[..., Told]) -> None:
    files = [segment(10 + number, f"/{number}", 4096 * (number + 1), number + 1) for number in range(100)]
    one = told(statistics(*files, limit=5050 * 4096))
    one.deaths.failed(touched())
    one.deaths.refused(write())
    one.wait()
    for known in (one.deaths.deaths[0], one.deaths.refusals[0]):
        assert (len(known.holders), known.more_holders) == (HOLDERS, 100 - HOLDERS)
        assert known.holders[0].path == "/99"
    assert all(" and 97 more. " in sentence for sentence in one.said)
    assert one.written[-1]["more_holders"] == 80


def test_a_call_that_the_kernel_refused_is_counted(told: Callable[..., Told]) -> None:
    one = told()
    for _ in range(3):
        one.deaths.refused(write())
    assert one.said == []
    one.wait()
    one.deaths.refused(write())
    one.wait()
    one.deaths.settle(last=True)
    [known] = one.deaths.calls
    assert (known.count, known.limit, known.enough, len(known.holders)) == (4, 8 * MIB, "32m", 1)
    assert known.held_after > 0
    assert len(one.said) == 1
    assert [event["refusal"]["count"] for event in one.written] == [3, 4]


@pytest.mark.parametrize(("path", "inode"), [("", INODE), ("/b", INODE), ("/a", INODE + 1)])
@pytest.mark.parametrize("first", ["daemon", "kernel"])
def test_a_call_that_the_daemon_serves_is_reported_by_it_alone(
    told: Callable[..., Told], first: str, path: str, inode: int
) -> None:
    one = told()
    both = [
        lambda: one.refuse(refusal(errno="ENOSPC", call="write")),
        lambda: one.deaths.refused(write(path=path, inode=inode)),
    ]
    for happen in both if first == "daemon" else reversed(both):
        happen()
    one.wait()
    one.deaths.refused(write(path=path, inode=inode))
    one.wait()
    assert (one.deaths.calls, len(one.said), len(one.deaths.refusals), one.written) == ([], 1, 1, [])


def test_another_error_of_the_same_call_is_not_the_daemon_s(told: Callable[..., Told]) -> None:
    """RLIMIT_FSIZE refuses before the daemon is asked, which refuses a later call for lack of space."""
    one = told()
    one.deaths.refused(write(call="fallocate", errno="EFBIG", limit_name="RLIMIT_FSIZE", enough=None))
    one.refuse(refusal(errno="ENOSPC", call="fallocate"))
    one.wait()
    assert [known.errno for known in one.deaths.refusals] == ["ENOSPC", "EFBIG"]


def test_the_path_of_a_file_whose_process_is_gone(told: Callable[..., Told]) -> None:
    one = told()
    one.deaths.refused(write(path="", errno="EFBIG", limit_name="RLIMIT_FSIZE", limit=MIB, enough=None))
    one.wait()
    assert one.said == [
        "EFBIG: x (pid 77) asked for 1 MiB for /a (write), but RLIMIT_FSIZE of 1 MiB is reached."
    ]
    assert one.deaths.calls[0].holders == []


def test_memory_is_bounded(told: Callable[..., Told]) -> None:
    one = told()
    for pid in range(3000):
        one.deaths.failed(touched(pid=pid, process=pid))
        one.deaths.refused(write(pid=pid))
        one.deaths.ended(end(pid, process=pid), KILLED)
    one.wait()
    one.now += 10
    one.deaths.ended(end(), 0)
    one.wait()
    assert (len(one.deaths.deaths), len(one.deaths.calls)) == (deaths.MOST, refused_calls.MOST)
    assert len(one.said) == deaths.MOST + refused_calls.MOST
    kept = (one.deaths._known, one.deaths._last, one.deaths._strays, one.deaths._failed, one.deaths._ended)
    assert not any(kept)
    assert max(len(one.deaths._over), len(one.deaths._done)) <= deaths.MOST
