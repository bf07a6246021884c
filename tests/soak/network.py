"""Namespaces: two nodes, a client outside the cluster, and a host of all endpoints."""

import ctypes
import os
import subprocess
import threading

CLONE_NEWNET = 0x4000_0000
LIBC = ctypes.CDLL(None, use_errno=True)

# Endpoints of Services with traffic: all of 10.50.1.0/24. Those of the others do not exist.
NODE_ADDRESS = "192.0.2.1"
CLIENT_ADDRESS = "192.0.2.2"


def command(*words, **options):
    """Runs a command, and raises an error with what it said if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """The namespaces, which are deleted at the end."""

    NAMES = ("node", "steady", "pods", "client")

    def __init__(self):
        self.prefix = f"soak-{os.getpid()}-"

    def name(self, short):
        return self.prefix + short

    def inside(self, short, *words):
        """Returns a command line that runs in a namespace and becomes the program."""
        return ["nsenter", f"--net=/run/netns/{self.name(short)}", *words]

    def run(self, short, *words, **options):
        return command(*self.inside(short, *words), **options)

    def call(self, short, work):
        """Calls a function on a thread in a namespace, and returns its result."""
        result = []

        def enter():
            with open(f"/run/netns/{self.name(short)}", "rb") as file:
                if LIBC.setns(file.fileno(), CLONE_NEWNET):
                    result.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                result.append(work())
            except Exception as error:
                result.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def __enter__(self):
        try:
            self.make()
        except Exception:
            self.__exit__()
            raise
        return self

    def make(self):
        for short in self.NAMES:
            command("ip", "netns", "add", self.name(short))
        settings = "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"
        for short in ("node", "steady"):
            for setting in settings:
                self.run(short, "sysctl", "-qw", setting)
        node, pods, client = (self.name(it) for it in ("node", "pods", "client"))
        script = [
            f"link add pods netns {node} type veth peer name eth0 netns {pods}",
            f"link add uplink netns {node} type veth peer name eth0 netns {client}",
        ]
        command("ip", "-batch", "-", input="\n".join(script))
        of = {
            "node": [
                "addr add 10.50.0.1/16 dev pods",
                f"addr add {NODE_ADDRESS}/24 dev uplink",
                "link set pods up",
                "link set uplink up",
            ],
            "pods": [
                *(f"addr add 10.50.1.{host}/16 dev eth0" for host in range(1, 255)),
                "link set eth0 up",
                "route add default via 10.50.0.1",
            ],
            "client": [
                f"addr add {CLIENT_ADDRESS}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {NODE_ADDRESS}",
            ],
            "steady": [f"addr add {NODE_ADDRESS}/24 dev lo"],
        }
        for short, lines in of.items():
            self.run(short, "ip", "-batch", "-", input="\n".join(["link set lo up", *lines]))

    def __exit__(self, *_):
        for short in self.NAMES:
            subprocess.run(
                ["ip", "netns", "del", self.name(short)], capture_output=True, check=False
            )
