"""Long runs: every experiment's trainings, worked off by Snakemake, on this machine or a cluster."""
