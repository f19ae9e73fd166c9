"""Retrieval of encoded clips: how a gallery is ranked, and what the ranking is worth."""
