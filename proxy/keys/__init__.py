"""Keys, signed documents, trust in them, and the store that keeps them."""
