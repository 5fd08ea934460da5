"""What .ci/churn and .ci/order share: servers, processes that can be killed, and their logs (see examples/member.rs)."""
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("BIN") or pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or TOP / "target") / "release")
MEMBER = os.environ.get("MEMBER", str(pathlib.Path(os.environ.get("EXAMPLES") or BIN / "examples") / "member"))
JAVA = TOP / "tests/interop/real-input/run"

Delivery = collections.namedtuple("Delivery", "ms queue offset tries ok body member")
Acked = collections.namedtuple("Acked", "ms queue offset key step")


class Servers:
    """A name server and a broker by .ci/servers, in a directory of their own; ours, or the original's with PEER=apache."""

    def __init__(self, *lines):
        self.lines = lines
        self.work = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.work.name) / "servers"
        self.up()
        self.namesrv = (self.folder / "namesrv").read_text().strip()
        self.broker = "127.0.0.1:" + (self.folder / "ports").read_text().split()[1]

    def up(self):
        subprocess.run([TOP / ".ci/servers", "up", self.folder, *self.lines], check=True, stdout=subprocess.DEVNULL)

    def down(self, *how):
        subprocess.run([TOP / ".ci/servers", "down", self.folder, *how], check=True, stdout=subprocess.DEVNULL)

    def admin(self, *words):
        """The documents that an mqadmin command prints; None when it fails, as while the broker is away."""
        done = subprocess.run([BIN / "mqadmin", *words, "-n", self.namesrv, "--json"], capture_output=True, text=True)
        if done.returncode != 0:
            return None
        return [json.loads(line) for line in done.stdout.splitlines()]

    def create_topic(self, topic, queues):
        if self.admin("updateTopic", "-b", self.broker, "-t", topic, "-r", str(queues), "-w", str(queues)) is None:
            sys.exit(f"topic {topic} cannot be created")

    def committed(self, group, topic):
        """Committed offsets by queue; empty while the broker or the group is not there."""
        answer = self.admin("consumerProgress", "-g", group, "-t", topic)
        return {q["queueId"]: q["consumerOffset"] for q in answer[0]["queues"] if q["topic"] == topic} if answer else {}

    def logs(self):
        subprocess.run([TOP / ".ci/servers", "logs", self.folder, "30"])


class Member:
    """A consumer process with a log of its own."""

    def __init__(self, servers, number, topic, group, client, *more):
        self.name = f"m{number}"
        self.log = pathlib.Path(servers.work.name) / f"{self.name}.log"
        # The Java twin is a process behind a script that replaces itself, so that its pid is this one.
        command = [JAVA, "member"] if client == "java" else [MEMBER]
        self.errors = open(self.log.with_suffix(".err"), "w")
        self.process = subprocess.Popen([*command, "consume", servers.namesrv, topic, group, self.log, *more],
                                        stdin=subprocess.PIPE, stdout=self.errors, stderr=self.errors)
        self.ended_ms, self.how = None, "runs"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.ended_ms, self.how = time.time() * 1000, "killed"

    def leave(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit(f"{self.name} does not leave")
        self.ended_ms, self.how = time.time() * 1000, "left"

    def deliveries(self):
        for words in lines(self.log, "D"):
            yield Delivery(int(words[0]), int(words[1]), int(words[2]), int(words[3]), words[4] == "ok",
                           " ".join(words[5:]), self)

    def ownership(self):
        """(ms, set of queues) at each change."""
        for words in lines(self.log, "Q"):
            yield int(words[0]), {int(queue) for queue in words[1:]}


def lines(path, kind):
    """The words behind the letter, of the whole lines of that kind."""
    if not path.exists():
        return
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        words = line.split()
        if words and words[0] == kind:
            yield words[1:]


def start_producer(servers, topic, keys, rate, seconds):
    log = pathlib.Path(servers.work.name) / "acked.log"
    process = subprocess.Popen([MEMBER, "produce", servers.namesrv, topic, str(keys), str(rate), str(seconds), log])
    return process, log


def acknowledged(log):
    return [Acked(*map(int, words)) for words in lines(log, "A")]


def all_deliveries(members):
    """Of all members, in the order of time, which is that of one machine's clock.

    A queue can change hands within a millisecond: what two members have of that one is put in the order of the queue. A member
    has no delivery of a queue twice in one, since it makes a pause when one failed and asks the broker before it goes back.
    """
    return sorted((d for member in members for d in member.deliveries()), key=lambda d: (d.ms, d.offset))


class Progress:
    """Committed offsets, looked at again and again: none may go back."""

    def __init__(self, servers, group, topic):
        self.servers, self.group, self.topic = servers, group, topic
        self.last, self.backwards, self.looks = {}, [], 0

    def look(self):
        for queue, offset in self.servers.committed(self.group, self.topic).items():
            if offset < self.last.get(queue, 0):
                self.backwards.append(f"queue {queue} from {self.last[queue]} to {offset}")
            self.last[queue] = offset
            self.looks += 1


def wait_until_consumed(progress, acked, patience_s):
    """Until the group's offsets are behind every acknowledged message."""
    ends = {}
    for message in acked:
        ends[message.queue] = max(ends.get(message.queue, 0), message.offset + 1)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        progress.look()
        if all(progress.last.get(queue, 0) >= end for queue, end in ends.items()):
            return True
        time.sleep(0.5)
    return False


def seed():
    value = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print(f"seed {value}")
    return random.Random(value)


class Verdicts:
    """Counts what held and what did not, for the last line."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, holds, words):
        print(("ok    " if holds else "FAIL  ") + words)
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
