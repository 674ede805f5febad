"""How processes ended, as the process connector of the kernel tells it: netlink(7), <linux/cn_proc.h>.

Perf says that a thread ended, and not how. The connector says it of every process of the machine, to root in
the first namespaces only.
"""

import errno
import os
import socket
import struct
from collections import OrderedDict

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC = 11, 1, 1
_NLMSG_DONE, _LISTEN, _EXIT = 3, 1, 0x80000000
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_MESSAGE = struct.Struct("=IIIIHH")  # struct cn_msg
_EVENT = struct.Struct("=IIQIII")  # struct proc_event: what, cpu, time, then pid, tgid and exit code
_BUFFER = 1 << 22
_MOST = 1 << 16


class Exits:
    """The newest of them, by pid."""

    def __init__(self) -> None:
        """Listen from now on; raises OSError where that is not permitted."""
        self._ended: OrderedDict[int, int] = OrderedDict()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_CONNECTOR)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.bind((0, _CN_IDX_PROC))
            self._socket.setblocking(False)
            body = _MESSAGE.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0) + struct.pack("=I", _LISTEN)
            head = _HEADER.pack(_HEADER.size + len(body), _NLMSG_DONE, 0, 0, os.getpid())
            self._socket.send(head + body)
        except BaseException:
            self._socket.close()
            raise

    def read(self) -> None:
        """Take in what the kernel has told since; what did not fit into the buffer stays unknown."""
        while True:
            try:
                data = self._socket.recv(1 << 12)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                return
            if len(data) < _HEADER.size + _MESSAGE.size + _EVENT.size:
                continue
            what, _, _, _, process, code = _EVENT.unpack_from(data, _HEADER.size + _MESSAGE.size)
            if what == _EXIT:  # of a thread; the last one of a process says how that ended
                self._ended[process] = code
                self._ended.move_to_end(process)
                if len(self._ended) > _MOST:
                    self._ended.popitem(last=False)

    def status(self, pid: int) -> int | None:
        """Return how the process ended, once, as a shell says it: 128+N for signal N; None if not known."""
        code = self._ended.pop(pid, None)
        return None if code is None else 128 + (code & 0x7F) if code & 0x7F else code >> 8 & 0xFF

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
