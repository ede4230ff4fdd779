"""Metric-based meta-learning: classes are regions of a learned space."""
