"""The drawn world of the bundled model: scenes, questions and what is right."""
