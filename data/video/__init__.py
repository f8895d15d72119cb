"""Clips with and without sound: the built-in set of bouncing bodies, readers and writers of files, the data module."""
