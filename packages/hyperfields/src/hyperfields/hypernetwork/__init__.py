"""The dynamic hypernetwork (4.3.1)."""
