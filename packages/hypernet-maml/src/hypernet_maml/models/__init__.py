"""Networks, their layers, and convolutions whose weights are generated."""
