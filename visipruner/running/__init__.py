"""Runs one prompt with several methods, with clocks and counters."""
