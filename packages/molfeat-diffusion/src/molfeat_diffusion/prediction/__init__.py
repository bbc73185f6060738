"""Predictors on features, and picks from a library by their scores."""
