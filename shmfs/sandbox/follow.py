"""Record what a running process, and all that it starts from now on, does on a mount.

The recorder is a process of its own, `python -m shmfs.sandbox.follow`, so that the one that is followed may
fork: it gets no thread. The two speak in lines of JSON: what is wanted, that it has begun, what was recorded.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from shmfs.errors import ShmfsError


class Followed(NamedTuple):
    """What was recorded."""

    minor: int
    major: int
    failed: int
    lost: int
    seen: bool
    """Whether faults could be seen at all; `note` says why not."""
    note: str
    """What could not be seen: a sentence."""
    said: list[str]
    """Why something failed: a sentence each."""
    unfollowed: Sequence[str] = ()
    """Processes that were not followed for some time; each counts as a lost record."""


class Follower:
    """Records this process until it is stopped, or ends."""

    def __init__(self, device: str, root: str, trace: str = "") -> None:
        """Begin; returns when everything from now on is recorded. Raises ShmfsError.

        Processes see the mount at `root`. Without a file for the trace only the counts are kept.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "shmfs.sandbox.follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the keyboard is not for it
        )
        try:
            self._ask({"device": device, "root": root, "trace": trace, "pid": os.getpid()})
        except BaseException:
            self._end()
            raise

    def stop(self) -> Followed:
        """End; everything that has happened is recorded. Raises ShmfsError."""
        try:
            return Followed(**self._ask({"stop": True}))
        finally:
            self._end()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        there, back = self._process.stdin, self._process.stdout
        assert there is not None  # noqa: S101
        assert back is not None  # noqa: S101
        try:
            there.write(json.dumps(request).encode() + b"\n")
            there.flush()
            answer = json.loads(back.readline() or "{}")
        except (BrokenPipeError, json.JSONDecodeError):
            answer = {}
        if not answer:
            raise ShmfsError(f"the recorder ended with status {self._process.wait()}")
        if "error" in answer:
            raise ShmfsError(answer["error"])
        return dict(answer)

    def _end(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Record until that is asked to end, or nobody is there to ask any more."""
    said: list[str] = []
    wanted = json.loads(sys.stdin.readline() or "{}")
    if not wanted:
        return
    try:
        recording, note = _begin(wanted, said)
    except (ShmfsError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    asked = sys.stdin.readline()
    try:
        recording.stop()
    except ShmfsError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    if not asked:  # it died, and this may be why
        for sentence in said:
            print(f"shmfs: {sentence}", file=sys.stderr)
        return
    counts = recording.counts()
    result = Followed(
        *(counts.minor, counts.major, counts.failed, counts.lost, counts.seen, note or counts.note, said),
        unfollowed=counts.unfollowed,
    )
    print(json.dumps(result._asdict()), flush=True)


def _begin(wanted: dict[str, Any], said: list[str]) -> "tuple[Any, str]":
    from shmfs.client import control
    from shmfs.record.recording import Recording, Subject
    from shmfs.tracefile.writer import MIN_SIZE

    device = wanted["device"]
    about = control.statistics(device)
    subject = Subject(
        *(wanted["root"], device, about.store, about.options, about.size_limit), backing=about.backing
    )
    events = control.events(device)
    following: dict[str, Any] = {"pid": wanted["pid"], "running": True, "events": events}
    following |= {"ask": partial(control.find_statistics, device), "say": said.append}
    if wanted["trace"]:
        recording = Recording(wanted["trace"], subject, **following)
    else:
        with tempfile.NamedTemporaryFile(prefix="shmfs-") as file:  # without a name nothing can be left
            recording = Recording(file.name, subject, **following, max_size=MIN_SIZE, when_full="stop")
    note = said.pop() if said else ""
    try:
        recording.start()
    except BaseException:
        recording.stop()
        raise
    return recording, note


if __name__ == "__main__":
    main()
