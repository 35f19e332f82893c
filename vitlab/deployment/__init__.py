"""A trained model in use: the card of its exported files, and predictions on a user's own pictures."""
