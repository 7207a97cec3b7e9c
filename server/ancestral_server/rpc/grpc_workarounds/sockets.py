"""What the kernel still holds of this process's TCP connections. Linux only: elsewhere nothing is known.

What:   finds the connections among the process's file descriptors, and asks the kernel about each.
Why:    gRPC says of no answer whether it has left the process, and gives no connection away. What a process leaves
        unsent or unread when it ends, the kernel answers with a reset, and what was on its way is lost.
Since:  1.85.
Costs:  a look at each file descriptor every 20 ms, while the server ends.
Goes:   tests/server/rpc/test_grpc_workarounds.py::test_grpc_is_the_one_that_was_looked_at
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator

if sys.platform == "linux":
    import fcntl
    import termios

_INT = struct.Struct("i")
# Of struct tcp_info (linux/tcp.h): milliseconds since data was last received.
_LAST_DATA_RECEIVED = struct.Struct("52xI")


def unsent() -> int:
    """Bytes that were written and that their peers have not acknowledged."""
    total = 0
    for connection in _connections():
        total += _INT.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return total


def quiet_seconds() -> float:
    """Seconds since any peer has last sent anything; infinite where there is none."""
    quiet = float("inf")
    for connection in _connections():
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
        quiet = min(quiet, _LAST_DATA_RECEIVED.unpack(info)[0] / 1000)
    return quiet


def _connections() -> Iterator[socket.socket]:
    """The connections, each as a socket of our own that is closed again; gRPC does not give its away."""
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.ExitStack() as closing:
            try:
                copy = os.dup(int(name))
                closing.callback(os.close, copy)
                connection = socket.socket(fileno=copy)
                closing.callback(connection.detach)
                connection.getpeername()
            except OSError:  # closed meanwhile, or no socket, or one that listens
                continue
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                yield connection
