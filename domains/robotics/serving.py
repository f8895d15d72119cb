"""A policy behind a socket: ``polydit serve CHECKPOINT``.

A robot's computer need not hold the model. A client says ``{"type": "start", "instruction": ..., "seed": ...}``, then
``{"type": "observe", "observation": {field: array}}`` for every step, and is answered by ``{"type": "action", "action":
array}``, or by ``{"type": "error", "message": ...}``, after which the connection stays usable.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import numpy as np

from polydit.platform import checkpoints
from polydit.platform.errors import ConfigurationError, UserError, require

from .execution import Controller
from .messages import MOST_BYTES, MessageError, pack, unpack
from .policy import PolicySystem

LOOPBACK = "127.0.0.1"
PORT = 8642


class PolicyServer:
    """Answers observations of any number of clients, each with an episode of its own.

    Args:
        system: a trained policy.
        most_clients: further ones are turned away.
    """

    def __init__(self, system: PolicySystem, most_clients: int = 16) -> None:
        self.system = system.eval()
        self.controller: Controller = system.controller()
        self.most_clients = most_clients
        self.clients = 0
        self._slots = count()
        self._turn = asyncio.Lock()

    async def handle(self, connection: Any) -> None:
        """Serve one connection until it closes."""
        if self.clients >= self.most_clients:
            await connection.close(1013, f"{self.most_clients} clients are connected already")
            return
        slot = next(self._slots)
        self.clients += 1
        try:
            async for data in connection:
                await connection.send(pack(await self._answer(slot, data)))
        finally:
            self.clients -= 1
            self.controller.end(slot)

    async def _answer(self, slot: int, data: bytes | str) -> dict[str, Any]:
        try:
            message = unpack(data)
            if message.get("type") == "start":
                return self._start(slot, message)
            if message.get("type") == "observe":
                return await self._observe(slot, message)
            raise MessageError(f"type is 'start' or 'observe', not {str(message.get('type'))[:40]!r}")
        except UserError as error:
            return {"type": "error", "message": str(error)}

    def _start(self, slot: int, message: dict[str, Any]) -> dict[str, Any]:
        instruction, seed = message.get("instruction", ""), message.get("seed", 0)
        if not isinstance(instruction, str) or len(instruction) > 2000:
            raise MessageError("instruction is a text of at most 2000 characters")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise MessageError(f"seed is a whole number from 0 to 2**32 - 1, not {str(seed)[:40]}")
        self.controller.start(slot, seed, instruction)
        codec = self.system.codec
        return {"type": "started", "fields": list(codec.fields), "action_size": codec.action_size}

    async def _observe(self, slot: int, message: dict[str, Any]) -> dict[str, Any]:
        observation = message.get("observation")
        if slot not in self.controller.episodes:
            raise MessageError("no episode was started: send a message of type 'start' first")
        if not isinstance(observation, dict) or not all(isinstance(v, np.ndarray) for v in observation.values()):
            raise MessageError("observation is a map of arrays")
        # One decision at a time; the loop stays free to read and to turn clients away.
        async with self._turn:
            actions = await asyncio.to_thread(self.controller.decide, [slot], [observation])
        return {"type": "action", "action": actions[0]}


@asynccontextmanager
async def serve(system: PolicySystem, host: str = LOOPBACK, port: int = PORT) -> AsyncIterator[int]:
    """Serve a policy inside the block; gives the port that was taken (0 asks for any).

    Raises:
        ConfigurationError: if the port is taken.
    """
    websockets = require("websockets.asyncio.server", "robotics")
    server = PolicyServer(system)
    try:
        async with websockets.serve(server.handle, host, port, max_size=MOST_BYTES, compression=None) as listening:
            yield listening.sockets[0].getsockname()[1]
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error


def main(arguments: list[str]) -> int:
    """``polydit serve``: answer observations over a socket until Ctrl-C."""
    parser = argparse.ArgumentParser("polydit serve", description="Serve a trained policy over a websocket.")
    parser.add_argument("checkpoint", help="a .ckpt file, a run folder or an exported folder")
    parser.add_argument(
        "--host", default=LOOPBACK,
        help="address to listen on; any other than the default lets the network in, without a password",
    )
    parser.add_argument("--port", type=int, default=PORT, help="0: any free one")
    options = parser.parse_args(arguments)
    module = checkpoints.load(options.checkpoint)
    if not isinstance(module.system, PolicySystem):
        raise ConfigurationError(f"{options.checkpoint} holds a {type(module.system).__name__}, which is no policy")
    asyncio.run(_serve_forever(module.system, options.host, options.port))
    return 0


async def _serve_forever(system: PolicySystem, host: str, port: int) -> None:
    async with serve(system, host, port) as taken:
        print(f"Serving on ws://{host}:{taken}; Ctrl-C ends it", flush=True)
        await asyncio.Event().wait()
