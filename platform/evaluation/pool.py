"""Slow functions of single items in worker processes, with a progress bar and a time limit that really ends an item.

Standard pools cannot do this: a future that timed out keeps its process busy for ever. Here every worker holds one item
at a time, and a worker that exceeds the limit is killed and replaced. Workers start as fresh interpreters, because a
process forked from one that runs torch's threads may deadlock.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import RunError

Item = TypeVar("Item")
Value = TypeVar("Value")

SERIAL_BELOW = 16
"""Fewer items than this, if they have no time limit, run in this process: workers would take longer to start."""


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What became of one item.

    Args:
        value: what the function returned; None if it did not return.
        problem: why it did not: the time limit, its error, or that its process died; empty if it did.
        timed_out: whether it was the time limit.
    """

    value: Value | None
    problem: str = ""
    timed_out: bool = False


def map_items(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    *,
    description: str,
    time_limit: float | None = None,
    processes: int | None = None,
) -> list[Outcome[Value]]:
    """Apply `function` to every item, in worker processes.

    Args:
        function: of an importable module, or `functools.partial` of one. Its exceptions become outcomes.
        items: picklable arguments.
        description: what the progress bar says, such as ``"PoseBusters"``.
        time_limit: seconds for one item, after which its process is killed and the next item goes on in a new one.
            None: no limit.
        processes: number of workers; None: one per available core. 0: no workers, but this process, which cannot keep
            a limit.

    Returns:
        Outcomes in the order of the items.

    Raises:
        ValueError: if a time limit is asked for without workers.
        RunError: if workers cannot start.
    """
    if processes == 0 and time_limit is not None:
        raise ValueError(f"a time limit of {time_limit} s needs worker processes: set processes >= 1, or no limit")
    if not items:
        return []
    if processes == 0 or (time_limit is None and len(items) < SERIAL_BELOW):
        with _progress(description, len(items)) as advance:
            return [_advanced(_apply(function, item), advance) for item in items]
    with _progress(description, len(items)) as advance:
        return _run(function, items, time_limit, min(processes or count_cores(), len(items)), advance)


def count_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One process, and the item it holds."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child,), daemon=True)
        self.process.start()
        child.close()
        self.connection.send(function)
        self.ready = False
        self.spent = False
        self.item: int | None = None
        self.started = 0.0

    def give(self, index: int, item: Any) -> None:
        """Start on an item; its time counts from here."""
        self.item, self.started = index, time.monotonic()
        self.connection.send(item)

    def poll(self, has_message: bool, limit: float | None) -> Outcome[Any] | None:
        """The outcome of the item, if there is one by now; sets `ready` once the worker can take items."""
        if has_message:
            return self._receive()
        if limit is not None and self.item is not None and time.monotonic() - self.started >= limit:
            self.spent = True
            return Outcome(None, f"timed out after {limit:g} s", timed_out=True)
        return None

    def _receive(self) -> Outcome[Any] | None:
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.spent = True
            if not self.ready:
                raise RunError(
                    f"a worker process ended before its first item (exit code {self.process.exitcode}). A script that "
                    'evaluates must run under `if __name__ == "__main__":`, because workers import it'
                ) from None
            return Outcome(None, f"its process died (exit code {self.process.exitcode})")
        self.ready = True
        return message if isinstance(message, Outcome) else None

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    # Every core has its worker already: threads of numerical libraries inside them would only compete.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        function = connection.recv()
        connection.send(None)
        while True:
            connection.send(_apply(function, connection.recv()))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def _apply(function: Callable[[Any], Value], item: Any) -> Outcome[Value]:
    try:
        return Outcome(function(item))
    except Exception as error:  # noqa: BLE001  whatever goes wrong with one item is that item's outcome
        return Outcome(None, f"{type(error).__name__}: {error}")


def _run(
    function: Callable[[Any], Value], items: Sequence[Any], limit: float | None, count: int, advance: Callable[[], None]
) -> list[Outcome[Value]]:
    outcomes: dict[int, Outcome[Value]] = {}
    pending = deque(range(len(items)))
    workers = [_Worker(function) for _ in range(count)]
    try:
        while len(outcomes) < len(items):
            messages = wait([worker.connection for worker in workers], _remaining(workers, limit))
            for worker in tuple(workers):
                outcome = worker.poll(worker.connection in messages, limit)
                if outcome is not None and worker.item is not None:
                    outcomes[worker.item], worker.item = outcome, None
                    advance()
                if worker.spent:
                    worker.stop()
                    workers.remove(worker)
                    if pending:
                        workers.append(_Worker(function))
                elif worker.ready and worker.item is None and pending:
                    index = pending.popleft()
                    worker.give(index, items[index])
    finally:
        for worker in workers:
            worker.stop()
    return [outcomes[index] for index in range(len(items))]


def _remaining(workers: Sequence[_Worker], limit: float | None) -> float | None:
    """Seconds until the next worker exceeds the limit; None: no worker can."""
    if limit is None:
        return None
    deadlines = [worker.started + limit for worker in workers if worker.item is not None]
    return max(min(deadlines) - time.monotonic(), 0.0) if deadlines else None


@contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


def _advanced(outcome: Outcome[Value], advance: Callable[[], None]) -> Outcome[Value]:
    advance()
    return outcome
