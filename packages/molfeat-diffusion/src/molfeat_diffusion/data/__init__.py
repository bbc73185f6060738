"""Molecules: from files to graphs and tensors, with their structures."""
