"""Runs come into being: lengths, tuned settings, costs, processes. Reads no result but validation scores of trials."""
