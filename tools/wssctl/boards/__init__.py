"""The boards one has: their names, whom they trust, and what is done on many."""
