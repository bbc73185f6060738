"""Networks and losses of the online learners, one file each; `registry` knows them all."""
