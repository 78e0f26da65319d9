"""Everything that is drawn. Drawing knows pictures and traces, never models."""
