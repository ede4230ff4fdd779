"""Optimisation-based meta-learning: what is learned is how a head is fitted to the support."""
