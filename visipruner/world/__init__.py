"""The drawn world of the bundled model: scenes, questions and true answers."""
