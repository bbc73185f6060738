"""Features of large files, in shards, on one machine or several."""
