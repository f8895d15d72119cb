"""A policy over a socket answers as it does at home, and survives what clients send."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.sync.client import connect

from polydit.domains.robotics.client import RemotePolicy
from polydit.domains.robotics.messages import MOST_BYTES, MessageError, pack, unpack
from polydit.domains.robotics.policy import Policy
from polydit.domains.robotics.serving import serve
from polydit.platform.errors import ConfigurationError, RunError

from .conftest import make_policy


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server in a thread of its own."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), list[int]()
    stop = asyncio.Event()

    async def run() -> None:
        async with serve(make_policy(), port=0) as port:
            ports.append(port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(20)
    yield f"ws://127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


def test_a_served_policy_answers_as_at_home(address: str, observation: dict[str, NDArray[np.float32]]) -> None:
    home = Policy(make_policy(), "reach", seed=3)
    with RemotePolicy(address, "reach", seed=3) as remote, RemotePolicy(address, "push", seed=4) as other:
        for _ in range(8):
            other(observation)
            assert np.array_equal(remote(observation), home(observation))
        remote.start_episode()
        home.start_episode()
        assert np.array_equal(remote(observation), home(observation))


def test_a_mistake_is_answered_and_the_connection_stays(
    address: str, observation: dict[str, NDArray[np.float32]]
) -> None:
    with connect(address, compression=None, proxy=None) as raw:

        def ask(data: bytes | str) -> Any:
            raw.send(data)
            return unpack(raw.recv(timeout=20))

        for data, message in (
            (pack({"type": "observe", "observation": observation}), "no episode was started"),
            (b"\xc1 nonsense", "not a message"), ("text", "binary"), (pack({"type": "shutdown"}), "'shutdown'"),
            (pack({"type": "start", "seed": -1}), "seed"), (pack({"type": "start", "instruction": 5}), "instruction"),
        ):
            answer = ask(data)
            assert answer["type"] == "error" and message in answer["message"]
        assert ask(pack({"type": "start"}))["fields"] == ["state"]
        for wrong, message in (({"state": np.zeros(9, np.float32)}, "3 values"), ({"image": np.zeros(3)}, "'state'")):
            answer = ask(pack({"type": "observe", "observation": wrong}))
            assert answer["type"] == "error" and message in answer["message"]
            ask(pack({"type": "start"}))
        assert ask(pack({"type": "observe", "observation": observation}))["type"] == "action"


def test_a_client_says_what_is_wrong(address: str) -> None:
    with RemotePolicy(address) as remote, pytest.raises(RunError, match="the policy refused: the policy looks at"):
        remote({"images": np.zeros(3, np.float32)})
    with pytest.raises(RunError, match="no policy answers"):
        RemotePolicy("ws://127.0.0.1:9", timeout=5)


def test_a_taken_port_is_named(address: str) -> None:
    async def again() -> None:
        async with serve(make_policy(), port=int(address.rpartition(":")[2])):
            pass

    with pytest.raises(ConfigurationError, match="choose another --port"):
        asyncio.run(again())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=8),
        lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8,
    ),
    st.sampled_from(["uint8", "int64", "float32", "float64"]), st.lists(st.integers(0, 4), max_size=4),
)
def test_messages_come_back(value: Any, kind: str, shape: list[int]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(kind).reshape(shape)
    back = unpack(pack({"value": value, "array": {"inner": array}}))
    assert back["value"] == value
    inner = back["array"]["inner"]
    assert inner.dtype == array.dtype and inner.shape == array.shape and np.array_equal(inner, array)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_read_but_never_breaks(data: bytes) -> None:
    with suppress(MessageError):
        assert isinstance(unpack(data), dict)


@pytest.mark.parametrize(
    "entry",
    [
        {"array": "object", "shape": [1], "data": b"12345678"}, {"array": "float32", "shape": [2], "data": b"1234"},
        {"array": "uint8", "shape": [-1], "data": b""}, {"array": "uint8", "shape": [1] * 9, "data": b"1"},
        {"array": "uint8", "shape": [2**40, 2**40], "data": b"1"},
    ],
)
def test_arrays_are_checked_before_they_are_made(entry: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        unpack(msgpack.packb({"a": entry}))


def test_what_a_message_cannot_hold_is_named() -> None:
    large = np.zeros(MOST_BYTES, np.uint8)
    for value, message in ((object(), "object"), (np.array(["a"]), "array of"), (large, "larger")):
        with pytest.raises(MessageError, match=message):
            pack({"value": value})
