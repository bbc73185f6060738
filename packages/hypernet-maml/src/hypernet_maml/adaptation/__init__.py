"""Adaptation to a task: MAML and its kin; self-challenging for unseen domains."""
