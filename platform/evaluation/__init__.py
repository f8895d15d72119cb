"""Judging samples: statistics, evaluators, writers, galleries and the report."""
