"""Molecules and crystals."""
