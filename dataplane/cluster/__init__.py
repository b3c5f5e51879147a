"""A whole cluster as a walk: every node an engine of its own, links between them, clients outside."""
