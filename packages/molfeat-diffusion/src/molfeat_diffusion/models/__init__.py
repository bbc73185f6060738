"""The denoiser, its noise, and the diffusion model of molecules."""
