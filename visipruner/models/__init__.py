"""Models: which there are, how their files are read and loaded."""
