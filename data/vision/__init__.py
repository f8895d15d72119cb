"""Images with or without classes: readers of folders, archives, shards and IDX files, and the data module."""
