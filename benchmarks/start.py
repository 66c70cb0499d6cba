"""How long `quaver serve` takes from its start until it answers, and from kill -9 under load until it does again.

    python benchmarks/start.py --model MINILM_FOLDER [--rounds 10] [--clients 8] [--out FILE]

A start is timed from the call that makes the process to the first 200 of /readyz, which is asked every
two milliseconds. Under load, clients ask for the vectors of a query again and again: while the server is
killed, and while it starts again on the same port. A first start, which is not counted, brings the model
into the page cache and compiles the modules. Linux only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from quaver import info
from quaver_bench.record import describe_run

PAUSE = 0.002
BODY = json.dumps({"inputs": "how do I merge two dictionaries in one expression"})


class Server:
    """A process of `quaver serve`."""

    def __init__(self, model: str, port: int, log: Path, environment: dict[str, str]) -> None:
        """Start it; `seconds` is how long it took until it answered."""
        command = [sys.executable, "-m", "quaver", "serve", "-m", model, "--port", str(port)]
        self.log = log
        with log.open("w") as stream:
            begin = time.perf_counter()
            self.process = subprocess.Popen(
                [*command, "--no-access-log"],
                stderr=stream,
                env=environment,
            )
        while _status(port) != 200:
            if self.process.poll() is not None:
                sys.exit(f"the server ended: {log.read_text()}")
            time.sleep(PAUSE)
        self.seconds = time.perf_counter() - begin

    def loading(self) -> float:
        """Return the seconds in which the model was loaded, of its log."""
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        return sum(event["seconds"] for event in events if event["event"] == "model")

    def kill(self) -> None:
        """Kill it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Load:
    """Clients that ask one query after another, and again at once where nobody listens."""

    def __init__(self, port: int, clients: int) -> None:
        """Begin to ask."""
        self.answers = 0
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._over.is_set():
            try:
                connection.request("POST", "/embed", BODY)
                self.answers += connection.getresponse().read().startswith(b"[[")
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(PAUSE)
        connection.close()

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def _status(port: int) -> int:
    """Return the status of /readyz, or 0 if nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def starts(
    model: str, rounds: int, clients: int, log: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """Start and kill a server again and again, with or without clients."""
    port = _free_port()
    load = None
    seconds, loading = [], []
    for _ in range(rounds + 1):
        server = Server(model, port, log, environment)
        seconds.append(server.seconds)
        loading.append(server.loading())
        if clients and load is None:
            load = Load(port, clients)
        time.sleep(0.5)  # under load
        server.kill()
    if load is not None:
        load.end()
    seconds, loading = seconds[1:], loading[1:]
    return {
        "clients": clients,
        "seconds": [round(each, 3) for each in seconds],
        "median": round(statistics.median(seconds), 3),
        "max": round(max(seconds), 3),
        "model_median": round(statistics.median(loading), 3),
        "answers": 0 if load is None else load.answers,
    }


def imports(rounds: int, environment: dict[str, str]) -> float:
    """Return the median seconds of a process that imports what a server needs, and ends."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        code = "import quaver.cli.serve, quaver.serve.server"
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - begin)
    return round(statistics.median(seconds[1:]), 3)


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        result = {
            "kind": "start",
            "run": describe_run(info()["threads"], sys.argv),
            "imports": imports(options.rounds, environment),
            "idle": starts(options.model, options.rounds, 0, log, environment),
            "under_load": starts(options.model, options.rounds, options.clients, log, environment),
        }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    assert result["under_load"]["answers"]


if __name__ == "__main__":
    main()
