"""Saved runs: their files read again, without the model. Every value of a file is checked."""
