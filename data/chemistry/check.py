"""A report on data before training begins: counts, elements, sizes, splits, and every bad record by name."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from polydit.platform.errors import ConfigurationError, UserError

from .sources import CDVAECsvSource, FilesSource, SmilesSource, Source
from .splitting import assign_splits
from .store import StructureStore


@dataclass(frozen=True)
class SourceReport:
    """What one source holds.

    Args:
        source: class and location.
        molecules, crystals, atoms: counts of what is usable.
        elements: symbol -> atoms.
        sizes: number of atoms -> structures.
        splits: train, val, test -> structures.
        labels: name -> count of structures that have it, mean, standard deviation and unit.
        space_groups: crystals whose space group is known.
        bad_records: name and reason of everything left out.
        digest: SHA-256 of the arrays, the same wherever the data are the same.
    """

    source: str
    molecules: int
    crystals: int
    atoms: int
    elements: dict[str, int]
    sizes: dict[int, int]
    splits: dict[str, int]
    labels: dict[str, dict[str, Any]]
    space_groups: int
    bad_records: list[dict[str, str]]
    digest: str


def check(
    source: Source, cache_dir: str | Path, splits: str | Sequence[float] = "stored", seed: int = 0
) -> SourceReport:
    """Read `source` (from `cache_dir` if it was read before) and report on it.

    Raises:
        DataError: if nothing is usable, or at the first bad record of a source with ``on_error="raise"``.
    """
    store = source.load(cache_dir)
    periodic = store.periodic
    return SourceReport(
        source=_describe(source),
        molecules=int((~periodic).sum()),
        crystals=int(periodic.sum()),
        atoms=len(store.numbers),
        elements=_elements(store),
        sizes={size: count for size, count in enumerate(np.bincount(store.num_atoms).tolist()) if count},
        splits={name: len(places) for name, places in assign_splits(store, splits, seed).items()},
        labels={name: _summarise(store, name) for name in store.label_names},
        space_groups=int((store.space_group[periodic] > 0).sum()),
        bad_records=[asdict(bad) for bad in store.bad_records],
        digest=store.meta["digest"],
    )


def main(argv: list[str]) -> int:
    """The command ``polydit check``: exit code 0 if all records are good, 1 if some are bad, 2 if nothing is usable."""
    parser = argparse.ArgumentParser(prog="polydit check", description=__doc__)
    parser.add_argument("path", nargs="?", help="file or folder of structures, a CSV with a CIF column, or SMILES")
    parser.add_argument("--config", action="append", default=[], metavar="YAML", help="file with a data section")
    parser.add_argument("--cache-dir", help="folder of the binary stores; default: the configuration's, else none")
    parser.add_argument("--json", metavar="FILE", help="also write the report there; -: only that, to standard output")
    arguments = parser.parse_args(argv)
    if (arguments.path is None) == (not arguments.config):
        parser.error("give a PATH or --config, one of the two")
    try:
        with _cache(arguments.cache_dir) as cache_dir:
            reports = _check_all(arguments.path, arguments.config, arguments.cache_dir, cache_dir)
    except UserError as error:
        print(f"polydit check: {error}", file=sys.stderr)
        return error.exit_code
    text = json.dumps([asdict(report) for report in reports], indent=1)
    if arguments.json == "-":
        print(text)
    else:
        for report in reports:
            print_report(report)
        if arguments.json:
            Path(arguments.json).write_text(text)
    return int(any(report.bad_records for report in reports))


def find_source(path: str) -> Source:
    """Source that reads what is at `path`: a table with a ``cif`` or ``smiles`` column, or structure files."""
    suffixes = Path(path).suffixes
    if ".csv" in suffixes or ".tsv" in suffixes:
        from .sources.cdvae import read_table

        rows = read_table(Path(path), "\t" if ".tsv" in suffixes else ",")
        return CDVAECsvSource(path) if rows and "cif" in rows[0] else SmilesSource(path)
    return SmilesSource(path) if {".smi", ".txt"} & set(suffixes) else FilesSource(path)


def print_report(report: SourceReport) -> None:
    """Print `report` as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=report.source, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    table.add_row("molecules", f"{report.molecules:,}")
    table.add_row("crystals", f"{report.crystals:,} ({report.space_groups:,} with a space group)")
    table.add_row("atoms", f"{report.atoms:,}")
    table.add_row("elements", ", ".join(f"{symbol} {count:,}" for symbol, count in report.elements.items()))
    table.add_row("splits", ", ".join(f"{name} {count:,}" for name, count in report.splits.items()))
    for name, label in report.labels.items():
        table.add_row(f"label {name}", "{count:,} values, {mean:.4g} ± {std:.4g} {unit}".format(**label))
    table.add_row("sizes", _draw_histogram(report.sizes))
    table.add_row("bad records", f"{len(report.bad_records):,}")
    table.add_row("digest", report.digest)
    console.print(table)
    for bad in report.bad_records:
        console.print(f"  {bad['name']}: {bad['reason']}", markup=False, highlight=False, soft_wrap=True)


def _check_all(path: str | None, configs: list[str], wanted_cache: str | None, cache_dir: str) -> list[SourceReport]:
    if path is not None:
        return [check(find_source(path), cache_dir)]
    module = load_datamodule(configs)
    cache = wanted_cache or module.cache_dir
    return [check(source, cache, module.splits, module.seed) for source in module.sources]


def load_datamodule(configs: list[str]) -> Any:
    """The `ChemistryDataModule` of the data section that the YAML files give, later ones over earlier ones.

    Raises:
        ConfigurationError: if there is no data section, or it does not describe a chemistry data module.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from .datamodule import ChemistryDataModule

    section: dict[str, Any] = {}
    for config in configs:
        if not Path(config).is_file():
            raise ConfigurationError(f"there is no configuration file {config}")
        section = _merge(section, (yaml.safe_load(Path(config).read_text()) or {}).get("data") or {})
    if not section:
        raise ConfigurationError(f"{', '.join(configs)}: no data section; it names the sources to check")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ChemistryDataModule, "data", required=True)
    try:
        return parser.instantiate(parser.parse_object({"data": section})).data
    except ArgumentError as error:
        raise ConfigurationError(f"{', '.join(configs)}: {error}") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


@contextmanager
def _cache(path: str | None) -> Iterator[str]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="polydit-check-") as folder:
        yield folder


def _describe(source: Source) -> str:
    place = next((getattr(source, name) for name in ("path", "folder", "root") if hasattr(source, name)), "")
    return f"{type(source).__name__} {place}".strip()


def _elements(store: StructureStore) -> dict[str, int]:
    from ase.data import chemical_symbols

    return {chemical_symbols[int(number)]: count for number, count in store.meta["elements"].items()}


def _summarise(store: StructureStore, name: str) -> dict[str, Any]:
    values = store.label(name)
    values = values[~np.isnan(values)]
    return {"count": len(values), "mean": float(values.mean()), "std": float(values.std()), "unit": store.units[name]}


def _draw_histogram(sizes: dict[int, int], rows: int = 20, width: int = 20) -> str:
    """Bars of how many structures have how many atoms, in at most `rows` rows."""
    largest = max(sizes)
    step = -(-largest // rows)
    bins = [(low, sum(sizes.get(size, 0) for size in range(low, low + step))) for low in range(1, largest + 1, step)]
    most = max(count for _, count in bins)
    names = [f"{low}" if step == 1 else f"{low}-{low + step - 1}" for low, _ in bins]
    return "\n".join(
        f"{name:>9} {'█' * round(width * count / most)} {count:,}" for name, (_, count) in zip(names, bins, strict=True)
    )
