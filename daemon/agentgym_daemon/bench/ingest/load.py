"""Several load generators against one server, started together."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from agentgym_daemon.bench.ingest.sender import Job, Sent

GENERATORS, CONCURRENCY = 2, 2
"""Processes, and requests in flight of each: four in all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What is sent in one measurement."""

    spans_per_request: int
    spans: int
    templates: int
    seed: int

    @property
    def requests_per_generator(self) -> int:
        """Whole requests of each generator."""
        return max(1, self.spans // (self.spans_per_request * GENERATORS))

    @property
    def total_spans(self) -> int:
        """Spans that are sent in all."""
        return self.requests_per_generator * self.spans_per_request * GENERATORS


_SENDER = "import sys; from agentgym_daemon.bench.ingest.sender import main; sys.exit(main())"


class LoadError(RuntimeError):
    """A generator or a server did not do its part."""


class Generators:
    """Generators that are warm and wait; `run` lets them go."""

    def __init__(
        self, load: Load, *, protocol: str, target: str, headers: dict[str, str] | None = None
    ) -> None:
        self._processes = [_start() for _ in range(GENERATORS)]
        for number, process in enumerate(self._processes):
            job = Job(
                protocol=protocol,
                target=target,
                spans_per_request=load.spans_per_request,
                requests=load.requests_per_generator,
                concurrency=CONCURRENCY,
                seed=load.seed * GENERATORS + number,
                templates=load.templates,
                headers=headers or {},
            )
            _tell(process, job.as_json())
        for process in self._processes:
            if _line(process) != "warm":
                raise LoadError("a load generator ended before it was warm")

    def run(self) -> tuple[Sent, float]:
        """Sends everything; what all sent together, and acked spans per second."""
        try:
            for process in self._processes:
                _tell(process, "go")
            sent = [Sent(**json.loads(_line(process))) for process in self._processes]
        finally:
            self.close()
        whole = _together(sent)
        return whole, whole.acked_spans / (whole.ended - whole.began)

    def close(self) -> None:
        """Ends the generators."""
        for process in self._processes:
            process.kill()
            process.communicate()


def _together(sent: Sequence[Sent]) -> Sent:
    return Sent(
        acked_spans=sum(one.acked_spans for one in sent),
        rejected_spans=sum(one.rejected_spans for one in sent),
        began=min(one.began for one in sent),
        ended=max(one.ended for one in sent),
        bytes_per_span=sent[0].bytes_per_span,
    )


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SENDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise LoadError(f"a load generator failed with exit code {process.wait(10)}")
    return line
