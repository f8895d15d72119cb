"""Tests; they mirror the tree, with `core` for platform/ so that no folder shadows a standard module."""
