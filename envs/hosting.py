"""Where episodes live: in this process, or in worker processes that outlive neither the run nor an error.

Gymnasium's vector environments need equal spaces in all slots and end together when one crashes; here every slot may
run another task, and a crash is its episode's.
"""

from __future__ import annotations

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import RunError, UserError

from .environment import Environment, EnvironmentInfo, Observation
from .episodes import EnvironmentPool, Episode, EpisodeRequest, EpisodeRun, RolloutSettings
from .experts import ExpertPolicy, make_expert
from .factory import make

CLOSING_SECONDS = 5.0
"""How long a worker may take to close its environments before it is killed."""


@dataclass(frozen=True)
class Command:
    """What a slot shall do: begin the episode of `request`, or else make a step with `action`."""

    slot: int
    request: EpisodeRequest | None = None
    action: NDArray[np.float32] | None = None
    expert: ExpertPolicy | None = None
    """With a request: run the whole episode by the task's expert."""


@dataclass(frozen=True)
class Reply:
    """What became of a command: the next observation, or the record of an episode that has ended."""

    slot: int
    observation: Observation | None = None
    info: EnvironmentInfo | None = None
    episode: Episode | None = None
    lost: str | None = None
    """Why the worker is gone, and with it the episode."""


class EpisodeHost:
    """Episodes in this process, one per slot.

    Args:
        settings: of the whole run.
        slots: how many episodes may be under way.
    """

    def __init__(self, settings: RolloutSettings, slots: int) -> None:
        self._settings = settings
        self._pool = EnvironmentPool(_make_environment, slots)
        self._runs: dict[int, EpisodeRun] = {}

    def handle(self, command: Command) -> Reply:
        """Do what a slot shall do; what goes wrong in the simulation ends the episode, not the run.

        Raises:
            UserError: if the request itself is a mistake, such as an unknown task.
        """
        try:
            if command.request is not None:
                return self._begin(command, command.request)
            run = self._runs[command.slot]
            observation = run.step(command.action)
            return self._end(command.slot) if run.finished else Reply(command.slot, observation)
        except UserError as mistake:
            if not isinstance(mistake, RunError):
                raise
            return self._fail(command, mistake)
        except Exception as failure:  # noqa: BLE001  a simulator may raise anything
            return self._fail(command, failure)

    def close(self) -> None:
        """Close every environment."""
        for run in self._runs.values():
            run.environment.close()
        self._runs.clear()
        self._pool.close()

    def _begin(self, command: Command, request: EpisodeRequest) -> Reply:
        run = EpisodeRun(self._pool.take(request, self._settings), request, self._settings)
        self._runs[command.slot] = run
        observation, info = run.start()
        if command.expert is None:
            return Reply(command.slot, observation, info)
        run_expert(run, observation, command.expert)
        return self._end(command.slot)

    def _end(self, slot: int) -> Reply:
        run = self._runs.pop(slot)
        self._pool.give_back(run.episode.request, run.environment)
        return Reply(slot, episode=run.complete())

    def _fail(self, command: Command, failure: Exception) -> Reply:
        run = self._runs.pop(command.slot, None)
        message = f"{type(failure).__name__}: {failure}"
        if run is None:
            assert command.request is not None
            return Reply(command.slot, episode=Episode(command.request, error=message))
        run.environment.close()  # it may be broken: the next episode gets a new one
        return Reply(command.slot, episode=run.complete(message))


def run_expert(run: EpisodeRun, observation: Observation, policy: ExpertPolicy) -> None:
    """Step an episode by its task's expert until it ends.

    Args:
        run: just started.
        observation: its first.
        policy: noise and seed.
    """
    request = run.episode.request
    expert = make_expert(request.environment)
    expert.reset(run.environment)
    generator = np.random.default_rng([policy.seed, request.seed])
    scale = np.asarray(policy.noise, np.float32)
    while not run.finished:
        action = expert.act(observation)
        noise = (scale * generator.standard_normal(action.shape)).astype(np.float32) if scale.any() else None
        observation = run.step(action, noise)


class Backend(ABC):
    """Takes commands of slots to where their episodes live."""

    @abstractmethod
    def exchange(self, commands: Sequence[Command]) -> Iterator[Reply]:
        """Have the commands done, at most one of each slot; the replies come in any order."""

    @abstractmethod
    def close(self) -> None:
        """End everything that was started."""


class LocalBackend(Backend):
    """All slots in this process."""

    def __init__(self, settings: RolloutSettings, slots: int) -> None:
        self._host = EpisodeHost(settings, slots)

    def exchange(self, commands: Sequence[Command]) -> Iterator[Reply]:
        """One command after the other."""
        for command in commands:
            yield self._host.handle(command)

    def close(self) -> None:
        """Close the environments."""
        self._host.close()


class WorkerBackend(Backend):
    """Slots spread over worker processes; slot s lives in worker s modulo their number.

    Args:
        settings: of the whole run.
        slots: how many episodes may be under way.
        workers: how many processes.
    """

    def __init__(self, settings: RolloutSettings, slots: int, workers: int) -> None:
        self._settings = settings
        self._slots = -(-slots // workers)
        self._workers = [_Worker(settings, self._slots) for _ in range(workers)]

    def exchange(self, commands: Sequence[Command]) -> Iterator[Reply]:
        """All workers at the same time; one that dies is replaced, and its episodes are reported lost.

        Raises:
            UserError: what a worker's episode raised as a mistake in its request.
            RunError: if workers end before they begin.
        """
        waiting: dict[int, set[int]] = {}
        for index in range(len(self._workers)):
            mine = [command for command in commands if command.slot % len(self._workers) == index]
            if mine:
                waiting[index] = {command.slot for command in mine}
                self._workers[index].send(mine)
        while waiting:
            owners = {self._workers[index].connection: index for index in waiting}
            for connection in wait(list(owners)):
                index = owners[connection]  # type: ignore[index]
                reply = self._workers[index].receive()
                if isinstance(reply, str):
                    lost, self._workers[index] = waiting.pop(index), _Worker(self._settings, self._slots)
                    yield from (Reply(slot, lost=reply) for slot in sorted(lost))
                    continue
                waiting[index].discard(reply.slot)
                if not waiting[index]:
                    del waiting[index]
                yield reply

    def close(self) -> None:
        """End the workers: asked first, killed if they do not answer."""
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, settings: RolloutSettings, slots: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, settings, slots), daemon=True)
        self.process.start()
        child.close()
        self.heard = False

    def send(self, commands: list[Command]) -> None:
        """Hand over commands; that the process is gone shows when replies are read."""
        try:
            self.connection.send(commands)
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Reply | str:
        """The next reply, or why there will be none."""
        try:
            message: Any = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.connection.close()
            if not self.heard:
                raise RunError(
                    f"a worker process ended before its first reply (exit code {self.process.exitcode}). A script "
                    'that runs episodes must do so under `if __name__ == "__main__":`, because workers import it'
                ) from None
            return f"the worker process died (exit code {self.process.exitcode})"
        self.heard = True
        if isinstance(message, Reply):
            return message
        if isinstance(message, Exception):
            raise message
        return self.receive()  # the greeting

    def ask_to_end(self) -> None:
        """Tell the process that nothing more comes."""
        try:
            self.connection.send(None)
        except (OSError, ValueError):  # it is gone, or its pipe is
            return

    def end(self) -> None:
        """Wait for the process, and kill it if it does not end."""
        self.process.join(CLOSING_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _serve(connection: Connection, settings: RolloutSettings, slots: int) -> None:
    """Work of a process: lists of commands until None comes or the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle; it ends the workers
    host = EpisodeHost(settings, slots)
    try:
        connection.send("ready")
        while (commands := connection.recv()) is not None:
            for command in commands:
                connection.send(host.handle(command))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the main process is gone
        return
    except UserError as mistake:
        connection.send(mistake)
    finally:
        host.close()


def _make_environment(request: EpisodeRequest, settings: RolloutSettings) -> Environment:
    options = dict(request.options)
    if settings.max_steps is not None:
        options.setdefault("max_steps", settings.max_steps)
    return make(request.environment, **options)
