"""The benchmark's side of a worker: starts it, asks it, ends it."""

import json
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from peers.catalogue import Engine
from peers.files import FailureError, last_line

__all__ = ["Worker"]

ANSWER_SECONDS = 600
EXIT_SECONDS = 10


class Worker:
    """A process that runs one model.

    Args:
        engine: what runs it.
        path: the engine's version of the model.
        threads: of the engine.
        log: file for what it prints.
    """

    def __init__(self, engine: Engine, path: Path, threads: int, log: Path) -> None:
        self._log = log
        self.started = time.perf_counter()
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                engine.run(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, env=engine.environment(threads), bufsize=0
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self.loaded = self._ask(do="load", path=str(path), threads=threads)

    def generate(self, prompt: list[int], count: int) -> dict[str, Any]:
        """What `worker` answers to a prompt and `count` tokens after the first."""
        return self._ask(do="generate", prompt=prompt, count=count)

    def rss_bytes(self) -> int:
        """Its resident memory now."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)

    def close(self) -> None:
        """Ends it, by force where it does not end."""
        self._requests.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            line = self._line()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            self.close()
            raise FailureError(f"its process ended with {code} at {request['do']}: {last_line(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise FailureError(f"{request['do']} failed: {answer['error']}")
        return answer

    def _line(self) -> bytes:
        ready, _, _ = select.select([self._answers], [], [], ANSWER_SECONDS)
        if not ready:
            self.close()
            raise FailureError(f"no answer within {ANSWER_SECONDS} s")
        return self._answers.readline()
