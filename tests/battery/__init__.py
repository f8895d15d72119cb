"""One set of checks that every plug-in passes; a plug-in joins with one entry in `entries`."""
