"""Models: the list of them, and how their files are read and loaded."""
