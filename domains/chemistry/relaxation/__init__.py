"""Relaxation of sampled structures: an optional step after sampling, whose numbers stand beside those of the samples.

Nothing is relaxed unless a `polydit.domains.chemistry.relaxation.evaluator.RelaxationEvaluator` is configured, and the
samples stay as they were generated. This file imports nothing, so that processes that relax start without torch.
"""
