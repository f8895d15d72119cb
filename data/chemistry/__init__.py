"""Molecules and crystals: structures, their cached binary form, sources and the data module."""
