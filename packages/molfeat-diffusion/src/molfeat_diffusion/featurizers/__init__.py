"""Features of molecules, as scikit-learn estimators."""
