"""T-cell receptors: a hypernetwork that writes an epitope's binding model from a few of its receptors (6.1)."""
