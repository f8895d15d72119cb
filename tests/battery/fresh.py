"""Loads every plug-in's weights in a process that never saw them made, and writes what it computes.

Run as ``python -m tests.battery.fresh FOLDER``; FOLDER holds one ``NUMBER.safetensors`` per entry.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .entries import ENTRIES


def main(folder: Path) -> None:
    """Write ``NUMBER.out.safetensors`` for every entry."""
    torch.set_num_threads(1)
    for number, entry in enumerate(ENTRIES):
        model = entry.build()
        model.load_state_dict(load_file(folder / f"{number}.safetensors"))
        with torch.no_grad():
            outputs = entry.run(model, entry.inputs(2))
        save_file({key: value.contiguous() for key, value in outputs.items()}, folder / f"{number}.out.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
