"""What a hypernetwork is conditioned on: prompts, their frozen encoders, the procedural vocabulary."""
