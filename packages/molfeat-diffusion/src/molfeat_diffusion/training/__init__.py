"""One file a loop."""
