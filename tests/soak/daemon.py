"""The daemon as a process, and the node that it programs."""

import http.client
import json
import os
import re
import signal
import subprocess
import time

import judge

METRICS = ("127.0.0.1", 10_249)
SETTINGS = ["--node-name", "na", "--cluster-cidr", "10.50.0.0/16", "--maglev-table-size", "251"]
POLL = 0.05


class Node:
    """The namespace of a node."""

    def __init__(self, network, name):
        self.network, self.name = network, name

    def nft(self, text):
        return self.network.run(self.name, "nft", *text.split())

    def tables(self):
        return [
            line.split()[1] for line in self.nft("list tables").splitlines() if " rulec" in line
        ]

    def objects(self):
        """Returns the number of sets of our tables, and of the elements in them."""
        sets = elements = 0
        for family in self.tables():
            listing = self.network.run(self.name, "nft", "-j", "list", "table", family, "rulec")
            for thing in json.loads(listing)["nftables"]:
                body = thing.get("set") or thing.get("map")
                # Packets write the others.
                if body and "dynamic" not in body.get("flags", []):
                    sets += 1
                    elements += len(body.get("elem", []))
        return sets, elements

    def metrics(self):
        def ask():
            connection = http.client.HTTPConnection(*METRICS, timeout=10)
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

        return self.network.call(self.name, ask)


class Daemon:
    """`rulec run` on a node, again and again."""

    def __init__(self, program, node, cluster, output):
        self.program, self.node, self.cluster = program, node, cluster
        self.log = open(output / f"{node.name}.log", "a+", encoding="utf-8")
        self.socket = output / f"{node.name}.sock"
        self.process = None
        self.is_exclusive = True

    def start(self, exclusive):
        self.is_exclusive = exclusive
        words = [self.program, "run", *SETTINGS, "--manifests", self.cluster.directory]
        words += ["--socket", self.socket, "--metrics-bind-address", ":".join(map(str, METRICS))]
        # More often than by default: a check is a part of what is tested.
        words += ["--verify-seconds", "10"]
        if not exclusive:
            words.append("--shared-tables")
        self.process = subprocess.Popen(
            self.node.network.inside(self.node.name, *map(str, words)),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )

    def check(self):
        """Raises an error if the daemon has ended by itself."""
        process = self.process
        if process and process.poll() is not None and process is self.process:
            raise RuntimeError(f"the daemon of {self.node.name} has ended: {process.returncode}")

    def end(self, number):
        process, self.process = self.process, None
        if process:
            process.send_signal(number)
            process.wait(timeout=30)

    def kill(self):
        self.end(signal.SIGKILL)

    def terminate(self):
        self.end(signal.SIGTERM)

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def stop(self):
        self.kill()

    def status(self):
        """Returns the status as JSON, if the daemon answers."""
        words = [self.program, "status", "--socket", self.socket, "--output", "json"]
        done = subprocess.run(map(str, words), capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def settle(self, seconds):
        """Waits until the kernel holds what the sources say."""
        self.until(seconds, lambda status: status["kernel"]["inSync"])

    def until(self, seconds, is_so):
        limit = time.monotonic() + seconds
        while True:
            self.check()
            status = self.status()
            if status and status["process"] == self.process.pid and is_so(status):
                return
            if time.monotonic() > limit:
                state = status and status["kernel"]
                raise RuntimeError(f"{self.node.name} is not in sync in {seconds:.0f} s: {state}")
            time.sleep(POLL)

    def flush_and_wait(self):
        """Flushes the ruleset, and waits until the daemon has repaired it.

        Its count of repairs says nothing: a commit that meets the flush is a failure and no repair.
        """
        tables, last = self.node.tables(), self.status()["kernel"]["lastCommit"]
        self.node.nft("flush ruleset")

        def is_repaired(status):
            kernel = status["kernel"]
            is_new = kernel["inSync"] and kernel["lastCommit"] != last
            return is_new and self.node.tables() == tables

        self.until(60, is_repaired)

    def delete_tables(self):
        for family in self.node.tables():
            self.node.nft(f"delete table {family} rulec")

    def usage(self):
        """Returns memory in KiB, descriptors, threads and processor seconds, if there is a daemon."""
        process = self.process
        directory = f"/proc/{process.pid}" if process else "/nonexistent"
        try:
            with open(f"{directory}/status", encoding="utf-8") as file:
                status = file.read()
            with open(f"{directory}/stat", encoding="utf-8") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            descriptors = len(os.listdir(f"{directory}/fd"))
        except OSError:
            return [None, None, None, None]
        of = lambda name: re.search(rf"{name}:\s+(\d+)", status)
        memory, threads = of("VmRSS"), of("Threads")
        ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if not memory or not threads:
            return [None, None, None, None]
        return [int(memory[1]), descriptors, int(threads[1]), round(ticks, 2)]

    def latencies(self):
        """Returns how many changes have taken at most so many seconds, by these seconds."""
        return judge.histogram(self.node.metrics(), "rulec_queue_to_ack_seconds")

    def differences(self, seconds):
        """Returns what `rulec diff` still finds between the kernel and the manifests."""
        words = [str(self.program), "diff", "--to", str(self.cluster.directory), *SETTINGS]
        words = self.node.network.inside(self.node.name, *words, "--socket", str(self.socket))
        limit = time.monotonic() + seconds
        while True:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return []
            if time.monotonic() > limit:
                what = (done.stdout + done.stderr).strip()
                return [f"{self.node.name} differs from the manifests: {what[:2000]}"]
            time.sleep(0.5)

    def complaints(self):
        """Returns the lines of the log that nothing here should cause."""
        self.log.flush()
        self.log.seek(0)
        bad = ("panicked", " ERROR ", "the kernel refused")
        lines = [line.strip() for line in self.log if any(text in line for text in bad)]
        return [f"log of {self.node.name}: {line}" for line in lines[:10]]
