"""Data modules, readers of the field's file formats and the small built-in sets."""
