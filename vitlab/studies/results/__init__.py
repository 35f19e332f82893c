"""Finished runs are read: one, and all of them as the table that referee judges. Trains nothing."""
