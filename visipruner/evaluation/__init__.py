"""Evaluate the bundled model: accuracy, presets, the trade-off curve, the three stages."""
