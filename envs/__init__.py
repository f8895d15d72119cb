"""Simulators: making environments, experts that demonstrate, vectorised rollouts, video."""
