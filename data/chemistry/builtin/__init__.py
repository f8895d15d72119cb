"""The built-in set: molecules and crystals made by this package, the same on every machine, without a download."""

from .source import BuiltinSource

__all__ = ["BuiltinSource"]
