"""What the drivers of clients share: set-up, processes that end with the block, and the count.

Standard library only: it runs before anything is installed.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack

START_S = 60


class Report:
    """Counts checks, and prints the failed ones."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, name, error=None):
        if error is None:
            self.passed += 1
            return
        self.failed += 1
        print(f"FAILED {name}: {error}", flush=True)

    def equal(self, name, found, wanted):
        self.check(name, None if found == wanted else f"{found!r}, not {wanted!r}")


class Broken(Exception):
    """Why the checks cannot be made at all."""


class Program:
    """A process of ours, with its output in a file. Ended by its id when the block ends."""

    def __init__(self, name, command, folder, env):
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def find(self, read):
        """What `read` makes of the first line of output for which it makes something."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            # A line without its end may still be growing.
            for line in self.log.read_text(errors="replace").splitlines(keepends=True):
                found = read(line) if line.endswith("\n") else None
                if found is not None:
                    return found
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Broken(f"{self.name} did not start:\n{self.log.read_text(errors='replace')}")

    def stop(self, by):
        """Asks the process to end; its exit status."""
        self.process.send_signal(by)
        try:
            return self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            return "still running"


def install_python(venv, pins):
    """The Python of an environment with exactly these packages, made anew when they change."""
    python = venv / "bin" / "python"
    stamp = venv / "installed"
    wanted = hashlib.sha256(f"{sys.version}\n".encode() + pins.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(venv, ignore_errors=True)
    must("make a virtual environment", sys.executable, "-m", "venv", venv)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # The pins are complete: nothing is resolved, so nothing newer slips in.
    must(f"install {pins.name}", *pip, "install", "--no-deps", "-r", pins)
    must(f"check {pins.name}", *pip, "check")
    stamp.write_text(wanted)
    return python


def install_node(folder):
    """The packages of this folder, installed anew when they change."""
    stamp = folder / "node_modules" / "installed"
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        must(f"install the Node packages of {folder.name}", "npm", "ci", "--silent", cwd=folder)
        stamp.write_text(wanted)


def cargo_build(folder, *options):
    """Where cargo put each executable."""
    command = ["cargo", "build", "--locked", "--message-format=json-render-diagnostics", *options]
    built = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode != 0:
        raise Broken(f"cargo cannot build {folder.name}")
    messages = (json.loads(line) for line in built.stdout.splitlines())
    return {it["target"]["name"]: it["executable"] for it in messages if it.get("executable")}


def must(what, *command, cwd=None):
    try:
        done = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        raise Broken(f"cannot {what}: {error}") from error
    if done.returncode != 0:
        raise Broken(f"cannot {what}:\n{done.stdout.decode(errors='replace')}")


def serving(line):
    """Where Foretoken serves tokens, by its log in JSON."""
    return logged(line, "serving tokens")


def ready(line):
    return logged(line, "ready")


def logged(line, message):
    """The address in the log line with this message."""
    try:
        fields = json.loads(line)["fields"]
    except (ValueError, KeyError):
        return None
    return fields.get("address") if fields.get("message") == message else None


def after(line, words):
    return line.partition(words)[2].strip() or None


def fetch_json(url):
    return json.loads(fetch(url))


def fetch(url):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=START_S) as answer:
        return answer.read()


def tail(log, lines=40):
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def bare(folder):
    """Nothing of our own environment: no proxy, no other credentials."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}


def free_ports(count):
    """Ports that nobody has now: `foretoken env` tells none of those that the system chooses."""
    with ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for it in bound:
            it.bind(("127.0.0.1", 0))
        return [it.getsockname()[1] for it in bound]
