"""Clips: VDT, one model for prediction, interpolation, completion and generation; its codec, metrics and writers."""
