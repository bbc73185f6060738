"""What leaves the program: meshes, videos, contact sheets."""
