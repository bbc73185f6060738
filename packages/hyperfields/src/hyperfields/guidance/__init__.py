"""Guidance of stage 1: a denoiser, and the gradients that it gives a render (4.2.2)."""
