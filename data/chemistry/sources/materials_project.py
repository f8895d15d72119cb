"""Materials Project crystals from numpy shards.

Shape legend: n crystals, a atoms of all crystals together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from polydit.platform.errors import DataError

from ..lattice import cell_vectors
from ..structure import AtomicStructure
from ..writer import StoreWriter
from .base import OnError, Source, add_standardised, describe_files, load_arrays, require_folder

ARRAYS = ("material_id", "num_atoms", "lattice", "atomic_numbers", "frac_coords_1e8", "mp20_role")
"""Arrays of a shard."""


class MaterialsProjectSource(Source):
    """Crystals from shards ``mp_*.npz`` in a folder.

    A shard holds ``material_id`` [n], ``num_atoms`` [n], ``lattice`` [n, 6] (Å, degrees), ``atomic_numbers`` [a],
    ``frac_coords_1e8`` [a, 3] and ``mp20_role`` [n]: 0 free to train on, 1 in MP-20's validation, 2 in its test set.

    Args:
        folder: where the shards are.
        niggli: reduce every cell (1 to 2 ms a crystal on one core, once).
        find_space_groups: by spglib at 0.1 Å (about 3 ms a crystal on one core, once); False leaves all unknown.
        workers: processes for the two; None: every core.
        on_error: see `Source`.
    """

    name = "materials-project"

    def __init__(
        self, folder: str, niggli: bool = False, find_space_groups: bool = True, workers: int | None = None,
        on_error: OnError = "skip",
    ) -> None:
        super().__init__(on_error)
        self.folder = folder
        self.niggli = niggli
        self.find_space_groups = find_space_groups
        self.workers = workers

    def _files(self) -> list[Path]:
        folder = require_folder(self.folder, "mp_*.npz")
        shards = sorted(folder.glob("mp_*.npz"))
        if not shards:
            raise DataError(f"{folder} holds no mp_*.npz; give the folder with the Materials Project shards")
        return shards

    def fingerprint(self) -> dict[str, Any]:
        """Settings and files, see `Source.fingerprint`."""
        files = describe_files(self._files(), Path(self.folder).expanduser())
        return {"files": files, "niggli": self.niggli, "find_space_groups": self.find_space_groups}

    def read(self, writer: StoreWriter) -> None:
        """Put the crystals into `writer`, see `Source.read`."""
        for path in self._files():
            identifiers, counts, lattice, numbers, fractional, split = load_arrays(path, ARRAYS)
            names, counts = [name.decode() for name in identifiers.tolist()], counts.astype(np.int64)
            fractional = fractional / 1e8
            cells = cell_vectors(lattice[:, :3], np.radians(lattice[:, 3:]))
            positions = np.einsum("ai,aij->aj", fractional, np.repeat(cells, counts, axis=0))
            if not (self.niggli or self.find_space_groups):
                writer.extend(numbers, positions, counts, cells, names, split=split)
                continue
            ends = np.cumsum(counts)
            structures = [
                AtomicStructure(
                    numbers[end - count : end].astype(np.int64), positions[end - count : end], cell, name=name
                )
                for end, count, cell, name in zip(ends, counts, cells, names, strict=True)
            ]
            add_standardised(
                writer, structures, split.tolist(), self.niggli, self.find_space_groups, self.workers, path.name
            )
