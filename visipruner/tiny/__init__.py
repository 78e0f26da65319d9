"""The bundled model: its world (data), how it is trained, and how good it is."""
