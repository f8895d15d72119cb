"""What every test may use: the checkout, the shared data beside it, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A busy machine must not fail a law, and a failing law must fail again.
settings.register_profile("polydit", deadline=None, derandomize=True)
settings.load_profile("polydit")

ROOT = Path(__file__).resolve().parents[1]

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
    # Numba, under librosa, writes machine code beside the library at its first import. Two processes that do so at once
    # mix each other's files, and whoever reads them dies of a call to address 0 or never returns.
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "numba" / worker)


def pytest_configure() -> None:
    """Tiny tensors lose more to threads than they win."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}")
    return folder


@pytest.fixture(autouse=True)
def restore_global_random_state() -> Iterator[None]:
    """Leave torch's global generator as it was, so that no test depends on the order of the others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
