"""Free ports for servers that are started, killed and started again on the same one."""

import random
import socket
from pathlib import Path

LOWEST = 10_000
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUALLY_EPHEMERAL = 32_768


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody uses now, and that the system gives to no connection by itself.

    Any other could be taken by a connection, of a test that runs meanwhile, while its server is away; a
    client that keeps asking for the server could even be connected to itself.
    """
    end = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else USUALLY_EPHEMERAL
    found: list[int] = []
    # Not the tests' dice: sessions that run at the same time would throw the same.
    for port in random.SystemRandom().sample(range(LOWEST, end), k=1000):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("nearly all ports are in use")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
