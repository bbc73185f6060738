"""The loop that trains every learner, and the stages of the recipe for CPUs."""
