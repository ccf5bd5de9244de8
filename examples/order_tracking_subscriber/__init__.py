"""A subscriber that follows orders, and a small workflow for it to follow."""
