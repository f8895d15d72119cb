"""Domains: one folder each, with its model assembly, conditioner, codec, evaluator, writer and recipes."""
