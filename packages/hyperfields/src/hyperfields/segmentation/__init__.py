"""HyperSegmentationFields: a few posed views to a labelled field in one forward pass (4.4.8)."""
