"""Connections to the Services that exist all the time, and the servers behind them.

As a program, it is one end in a namespace: `traffic.py serve PORT...`, or `traffic.py connect`,
which reads the frontends and commands on its standard input and writes what happens as JSON.
"""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time

from manifests import PORTS

# New connections a second, and connections that stay open, to all frontends in turn.
RATE = 20
OPEN = 60
# A lost packet is sent again after one second, three and seven.
PATIENCE = 15


class Traffic:
    """Both ends, as processes."""

    def __init__(self, network, frontends):
        self.network, self.frontends = network, frontends
        self.ends = []
        self.lock = threading.Lock()
        self.failures = []
        self.last = {"made": 0, "open": 0, "oldest": 0.0}

    def start(self):
        this = [sys.executable, __file__]
        serve = self.network.inside("pods", *this, "serve", *map(str, PORTS))
        connect = self.network.inside("client", *this, "connect")
        server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
        self.ends.append(server)
        if server.stdout.readline().strip() != "ready":
            raise RuntimeError("the servers do not start")
        client = subprocess.Popen(
            connect, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.ends.append(client)
        client.stdin.write(json.dumps(self.frontends) + "\n")
        self.reader = threading.Thread(target=self.read, args=(client,))
        self.reader.start()

    def read(self, client):
        for line in client.stdout:
            said = json.loads(line)
            with self.lock:
                if "what" in said:
                    self.failures.append(said)
                else:
                    self.last = said

    def reopen(self):
        """Opens all connections anew."""
        self.say("reopen")

    def say(self, word):
        if len(self.ends) > 1:
            self.ends[1].stdin.write(word + "\n")

    def look(self):
        if any(end.poll() is not None for end in self.ends):
            raise RuntimeError("an end of the traffic has ended")
        with self.lock:
            return dict(self.last)

    def failed(self):
        with self.lock:
            return list(self.failures)

    def stop(self):
        for end in reversed(self.ends):
            if end.poll() is None:
                end.terminate()
            end.wait()
        if self.ends:
            self.ends = []
            self.reader.join()


async def serve(ports):
    async def answer(reader, writer):
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    for port in ports:
        await asyncio.start_server(answer, "0.0.0.0", port, backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


class Client:
    """All connections of the client."""

    def __init__(self, frontends):
        self.frontends = frontends
        self.made = 0
        self.since = {}
        self.generation = 0

    async def ask(self, reader, writer, text):
        """Sends a line and reads it again."""
        line = f"{text}\n".encode()
        writer.write(line)
        await writer.drain()
        got = await asyncio.wait_for(reader.readline(), PATIENCE)
        if got != line:
            raise ConnectionError("the connection was closed" if not got else f"answer {got!r}")

    async def dial(self, at):
        return await asyncio.wait_for(asyncio.open_connection(*at), PATIENCE)

    async def once(self, at):
        """Makes one connection."""
        begin = time.monotonic()
        writer = None
        try:
            reader, writer = await self.dial(at)
            await self.ask(reader, writer, "new")
            self.made += 1
        except (OSError, asyncio.TimeoutError) as error:
            say_failure("a new connection", at, begin, error)
        finally:
            if writer:
                writer.close()

    async def stay(self, number, at):
        """Keeps one connection open, and uses it."""
        while True:
            generation, well = self.generation, time.monotonic()
            writer = None
            try:
                reader, writer = await self.dial(at)
                self.since[number] = time.monotonic()
                while generation == self.generation:
                    await self.ask(reader, writer, f"still {number}")
                    well = time.monotonic()
                    await asyncio.sleep(random.uniform(0.5, 1.5))
            except (OSError, asyncio.TimeoutError) as error:
                say_failure("an open connection", at, well, error)
                await asyncio.sleep(1)
            finally:
                self.since.pop(number, None)
                if writer:
                    writer.close()

    async def renew(self):
        tasks = set()
        while True:
            task = asyncio.create_task(self.once(random.choice(self.frontends)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / RATE)

    async def report(self):
        while True:
            now = time.monotonic()
            oldest = max((now - since for since in self.since.values()), default=0.0)
            say({"made": self.made, "open": len(self.since), "oldest": oldest})
            await asyncio.sleep(1)

    async def listen(self, lines):
        while await lines.readline():
            self.generation += 1


def say(what):
    print(json.dumps(what), flush=True)


def say_failure(what, at, begin, error):
    reason = str(error) or type(error).__name__
    at = f"{at[0]}:{at[1]}"
    say({"what": what, "at": at, "from": begin, "to": time.monotonic(), "error": reason})


async def connect():
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    client = Client(json.loads(await lines.readline()))
    staying = [client.stay(it, client.frontends[it % len(client.frontends)]) for it in range(OPEN)]
    await asyncio.gather(client.renew(), client.report(), client.listen(lines), *staying)


if __name__ == "__main__":
    try:
        asyncio.run(serve(map(int, sys.argv[2:])) if sys.argv[1] == "serve" else connect())
    except KeyboardInterrupt:
        pass
