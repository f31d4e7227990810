"""Measuring: the only place with a clock. Needs torch."""
