"""Where structures come from; every class here is a `Source` that a configuration names by class path."""

from .base import Source
from .cdvae import CDVAECsvSource
from .files import FilesSource
from .materials_project import MaterialsProjectSource
from .qm9 import QM9Source, TorchGeometricQM9Source
from .smiles import SmilesSource

__all__ = [
    "CDVAECsvSource",
    "FilesSource",
    "MaterialsProjectSource",
    "QM9Source",
    "SmilesSource",
    "Source",
    "TorchGeometricQM9Source",
]
