"""One prompt answered by several sides, with clocks and counters."""
