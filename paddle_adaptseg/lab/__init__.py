"""Experiments around trainings: demo, comparisons, sweeps, notebooks, AI Studio."""
