"""A served policy from the side of the robot: needs numpy, msgpack and websockets, and no model."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import RunError, require

from .messages import MOST_BYTES, pack, unpack


class RemotePolicy:
    """A served policy as a function: ``action = policy(observation)``; use it in a ``with`` block.

    Args:
        url: such as ``"ws://127.0.0.1:8642"``.
        instruction: what it is told.
        seed: of the first episode; later ones count up.
        timeout: seconds to wait for an answer.

    Raises:
        RunError: if nothing answers there.
    """

    def __init__(self, url: str, instruction: str = "", seed: int = 0, timeout: float = 60.0) -> None:
        client = require("websockets.sync.client", "robotics")
        self.instruction, self.seed, self.timeout = instruction, seed, timeout
        self._episodes = -1
        self._open = ExitStack()
        try:
            self._connection: Any = self._open.enter_context(
                client.connect(url, open_timeout=timeout, max_size=MOST_BYTES, compression=None, proxy=None)
            )
        except (OSError, TimeoutError) as error:
            raise RunError(f"no policy answers at {url} ({error}): start one with polydit serve") from error
        self.start_episode()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start_episode(self) -> None:
        """Begin anew, with the next seed."""
        self._episodes += 1
        self._ask({"type": "start", "instruction": self.instruction, "seed": self.seed + self._episodes})

    def __call__(self, observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Action [A] in the environment's units for an observation, field -> value now."""
        action: NDArray[np.float32] = self._ask({"type": "observe", "observation": observation})["action"]
        return action

    def close(self) -> None:
        """End the connection."""
        self._open.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message.

        Raises:
            RunError: if the policy refuses the message, or does not answer.
        """
        websockets = require("websockets.exceptions", "robotics")
        try:
            self._connection.send(pack(message))
            answer = unpack(self._connection.recv(timeout=self.timeout))
        except (websockets.ConnectionClosed, TimeoutError) as error:
            raise RunError(f"the policy no longer answers: {error or 'timeout'}") from error
        if answer.get("type") == "error":
            raise RunError(f"the policy refused: {answer.get('message')}")
        return answer
