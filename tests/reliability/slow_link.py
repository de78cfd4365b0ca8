"""Runs `ntm-rl` on two hosts, network namespaces of this machine, with a link of given latency and rate between them.

    sudo python tests/reliability/slow_link.py --milliseconds 1 --megabits 1000 \\
        benchmark scaling popgym-RepeatPreviousEasy-v0 n_envs=64

The link is a pair of TUN devices, whose packets this process delays; it needs the rights to make network namespaces.
"""

import argparse
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 9000
PORT = 29500


class Link:
    """One direction of a link: packets leave at the link's rate and arrive after its latency."""

    def __init__(self, source: int, target: int, seconds: float, bytes_per_second: float):
        self._source, self._target = source, target
        self._seconds, self._rate = seconds, bytes_per_second
        self._free_at = 0.0
        self._waiting: deque[tuple[float, bytes]] = deque()

    def receive(self, now: float) -> None:
        """Takes a packet from the sender."""
        packet = os.read(self._source, MTU + 100)
        self._free_at = max(now, self._free_at) + len(packet) / self._rate
        self._waiting.append((self._free_at + self._seconds, packet))

    def deliver(self, now: float) -> float:
        """Delivers the packets that arrive by now, and returns the seconds until the next."""
        while self._waiting and self._waiting[0][0] <= now:
            os.write(self._target, self._waiting.popleft()[1])
        return self._waiting[0][0] - now if self._waiting else 1.0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def hosts() -> Iterator[list[tuple[str, int]]]:
    """Makes two namespaces and yields their names and the files of their devices."""
    with ExitStack() as stack:
        made = []
        for number in (1, 2):
            name, device = f"ntmlink{os.getpid()}{number}", f"ntmtun{number}"
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, file)
            fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22s", device.encode(), IFF_TUN | IFF_NO_PI, b""))
            ip("link", "set", device, "netns", name)
            ip("-n", name, "addr", "add", f"10.78.0.{number}/24", "dev", device)
            ip("-n", name, "link", "set", device, "mtu", str(MTU), "up")
            ip("-n", name, "link", "set", "lo", "up")
            made.append((name, file))
        yield made


def start(name: str, number: int, command: Sequence[str]) -> subprocess.Popen[bytes]:
    launcher = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=0", "--rdzv-id=link", "--rdzv-backend=c10d"]
    launcher += [f"--rdzv-endpoint=10.78.0.1:{PORT}", f"--rdzv-conf=is_host={int(number == 1)}"]
    launcher += [f"--local-addr=10.78.0.{number}", "-m", "ntm_rl.agents", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"ntmtun{number}"}
    words = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *launcher]
    return subprocess.Popen(words, env=environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--milliseconds", type=float, default=0.0, help="latency of the link, one way")
    parser.add_argument("--megabits", type=float, default=1e6, help="rate of the link per second")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command of ntm-rl")
    options = parser.parse_args()
    with hosts() as ((first, a), (second, b)):
        running = [start(first, 1, options.command), start(second, 2, options.command)]
        sizes = options.milliseconds / 1e3, options.megabits * 1e6 / 8
        links = {a: Link(a, b, *sizes), b: Link(b, a, *sizes)}
        while any(process.poll() is None for process in running):
            pause = min(link.deliver(time.monotonic()) for link in links.values())
            for file in select.select(list(links), [], [], max(pause, 0.0))[0]:
                links[file].receive(time.monotonic())
        return max(process.returncode for process in running)


if __name__ == "__main__":
    sys.exit(main())
