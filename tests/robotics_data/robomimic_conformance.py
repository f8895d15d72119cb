"""Reads a file with robomimic's own data set and saves what it yields; runs where robomimic is, without polydit.

    python robomimic_conformance.py demonstrations.hdf5 sequences.npz FRAME_STACK SEQUENCE_LENGTH FIELD...

robomimic 0.3.0 needs other packages than polydit (torchvision above all), so it lives in an environment of its own.
"""

from __future__ import annotations

import sys

import numpy as np


def main(path: str, output: str, frame_stack: int, length: int, fields: list[str]) -> None:
    """Save observations, actions, rewards, dones and pad masks of every sequence."""
    from robomimic.utils.dataset import SequenceDataset

    dataset = SequenceDataset(
        hdf5_path=path, obs_keys=fields, dataset_keys=["actions", "rewards", "dones"], frame_stack=frame_stack,
        seq_length=length, pad_frame_stack=True, pad_seq_length=True, get_pad_mask=True, load_next_obs=False,
    )
    items = [dataset[i] for i in range(len(dataset))]
    arrays = {f"obs/{name}": np.stack([item["obs"][name] for item in items]) for name in fields}
    arrays |= {key: np.stack([item[key] for item in items]) for key in ("actions", "rewards", "dones", "pad_mask")}
    np.savez(output, demonstrations=dataset.n_demos, **arrays)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
