"""A verdict as a page, a table for a paper, and a record for other programs."""
