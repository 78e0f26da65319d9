"""Asking many questions: accuracy, presets, the trade-off curve, the three stages."""
