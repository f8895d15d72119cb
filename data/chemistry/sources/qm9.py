"""QM9: small organic molecules with B3LYP geometries (Ramakrishnan et al. 2014, doi:10.1038/sdata.2014.22).

Shape legend: n molecules, a atoms of all molecules together.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import DataError, require

from ..writer import StoreWriter
from .base import OnError, Source, describe_files, load_arrays, require_folder

HARTREE = 27.211386245988
"""eV (CODATA 2018)."""

GDB9_SIZE = 133_885
"""Molecules of GDB-9, numbered from 1."""


ARRAYS = ("gdb_index", "num_atoms", "atomic_numbers", "positions_1e10")
"""Arrays of a shard."""

SPLIT_ARRAYS = ("train", "valid", "test")

LABEL_ARRAYS = {
    "gap_eV": ("gap", 1.0),
    "homo_hartree": ("homo", HARTREE),
    "lumo_hartree": ("lumo", HARTREE),
    "r2_bohr2": ("r2", 1.0),
}
"""Array -> label and factor to its unit."""


class QM9Source(Source):
    """QM9 from numpy shards ``qm9_*.npz`` in a folder.

    A shard holds ``gdb_index`` [n], ``num_atoms`` [n], ``atomic_numbers`` [a] and ``positions_1e10`` [a, 3], whole
    multiples of 1e-10 Å. ``uncharacterized.txt`` names molecules to leave out, ``split_edm.npz`` the split of EDM,
    ``properties_partial.npz`` labels; each of the three is used where it is present.

    Args:
        folder: where the shards are.
        on_error: see `Source`.
    """

    name = "qm9"
    units = {"gap": "eV", "homo": "eV", "lumo": "eV", "r2": "bohr^2"}  # noqa: RUF012

    def __init__(self, folder: str, on_error: OnError = "skip") -> None:
        super().__init__(on_error)
        self.folder = folder

    def _files(self) -> list[Path]:
        folder = require_folder(self.folder, "qm9_*.npz")
        shards = sorted(folder.glob("qm9_*.npz"))
        if not shards:
            raise DataError(f"{folder} holds no qm9_*.npz; give the folder with the QM9 shards")
        extra = ("uncharacterized.txt", "split_edm.npz", "properties_partial.npz")
        return shards + [folder / name for name in extra if (folder / name).is_file()]

    def fingerprint(self) -> dict[str, Any]:
        """Settings and files, see `Source.fingerprint`."""
        return {"files": describe_files(self._files(), Path(self.folder).expanduser())}

    def read(self, writer: StoreWriter) -> None:
        """Put the molecules into `writer`, see `Source.read`."""
        files = {path.name: path for path in self._files()}
        excluded = read_uncharacterized(files["uncharacterized.txt"]) if "uncharacterized.txt" in files else []
        split = _read_split(files.get("split_edm.npz"))
        labels = _read_labels(files.get("properties_partial.npz"))
        for name in sorted(name for name in files if name.startswith("qm9_")):
            index, counts, numbers, positions = load_arrays(files[name], ARRAYS)
            index, counts, positions = index.astype(np.int64), counts.astype(np.int64), positions / 1e10
            keep = ~np.isin(index, excluded)
            atoms = np.repeat(keep, counts)
            index = index[keep]
            writer.extend(
                numbers[atoms],
                positions[atoms],
                counts[keep],
                np.full((len(index), 3, 3), np.nan),
                [f"gdb_{i}" for i in index.tolist()],
                {label: values[index] for label, values in labels.items()},
                split=split[index],
            )


class TorchGeometricQM9Source(Source):
    """QM9 as torch-geometric downloads it (needs its package and, the first time, a network).

    Args:
        root: folder of the download; torch-geometric fills it if it is empty.
        on_error: see `Source`.
    """

    name = "qm9-pyg"
    labels = (
        "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u", "h", "g", "cv",
        "u0_atom", "u_atom", "h_atom", "g_atom", "rotational_a", "rotational_b", "rotational_c",
    )  # fmt: skip
    """Targets 0..18 in torch-geometric's order."""
    units = {  # noqa: RUF012
        "mu": "D", "alpha": "bohr^3", "r2": "bohr^2", "cv": "cal/(mol K)", "rotational_a": "GHz",
        "rotational_b": "GHz", "rotational_c": "GHz",
        **dict.fromkeys(("homo", "lumo", "gap", "zpve", "u0", "u", "h", "g"), "eV"),
        **dict.fromkeys(("u0_atom", "u_atom", "h_atom", "g_atom"), "eV"),
    }  # fmt: skip

    def __init__(self, root: str, on_error: OnError = "skip") -> None:
        super().__init__(on_error)
        self.root = root

    def fingerprint(self) -> dict[str, Any]:
        """Settings, see `Source.fingerprint`; the download itself never changes."""
        return {"root": str(Path(self.root).expanduser().absolute())}

    def read(self, writer: StoreWriter) -> None:
        """Put the molecules into `writer`, see `Source.read`."""
        datasets = require("torch_geometric.datasets", "chemistry")
        read_torch_geometric(datasets.QM9(str(Path(self.root).expanduser())), writer)


def read_torch_geometric(dataset: Iterable[Any], writer: StoreWriter) -> None:
    """Put torch-geometric's QM9 items (``z``, ``pos``, ``y`` [1, 19], ``idx`` from 0) into `writer`, with EDM's split.

    The split is only known for the whole set of 130,831 characterised molecules; a part of it stays unassigned.
    """
    items = list(dataset)
    split = edm_split(len(items)) if len(items) == EDM_SIZE else np.full(len(items), -1)
    table = np.stack([item.y.reshape(-1).double().numpy() for item in items])
    writer.extend(
        np.concatenate([item.z.numpy() for item in items]),
        np.concatenate([item.pos.double().numpy() for item in items]),
        np.array([len(item.z) for item in items]),
        np.full((len(items), 3, 3), np.nan),
        [f"gdb_{int(item.idx) + 1}" for item in items],
        {name: table[:, column] for column, name in enumerate(TorchGeometricQM9Source.labels)},
        split=split,
    )


EDM_SIZE = 130_831
"""Characterised molecules of QM9."""


def edm_split(size: int) -> NDArray[np.int8]:
    """[size] split codes of EDM (Hoogeboom et al. 2022): a permutation with seed 0, 100,000 to train, a tenth to test.

    Args:
        size: characterised molecules, `EDM_SIZE`; their order is the order of GDB-9.
    """
    order = np.random.RandomState(0).permutation(size)
    split = np.full(size, 1, dtype=np.int8)
    split[order[:100_000]] = 0
    split[order[size - size // 10 :]] = 2
    return split


def read_uncharacterized(path: Path) -> list[int]:
    """GDB-9 numbers in QM9's list of molecules whose geometry does not fit their SMILES: its first column."""
    rows = (line.split() for line in path.read_text().splitlines())
    return [int(row[0]) for row in rows if len(row) >= 4 and row[0].isdigit()]


def _read_split(path: Path | None) -> NDArray[np.int8]:
    split = np.full(GDB9_SIZE + 1, -1, dtype=np.int8)
    if path is not None:
        for code, indices in enumerate(load_arrays(path, SPLIT_ARRAYS)):
            split[indices] = code
    return split


def _read_labels(path: Path | None) -> dict[str, NDArray[np.float64]]:
    """Label -> [GDB9_SIZE + 1] values by GDB-9 number, orbital energies in eV."""
    if path is None:
        return {}
    labels = {}
    index, *columns = load_arrays(path, ("gdb_index", *LABEL_ARRAYS))
    for (name, factor), values in zip(LABEL_ARRAYS.values(), columns, strict=True):
        labels[name] = np.full(GDB9_SIZE + 1, np.nan)
        labels[name][index] = values * factor
    return labels
