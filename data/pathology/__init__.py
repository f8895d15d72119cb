"""Paired tiles of two stains: readers, the brown channel, a built-in set and the data module."""
