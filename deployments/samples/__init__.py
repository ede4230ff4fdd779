"""Builders of real sample sources, written to disk exactly as a user's own sources would be."""
