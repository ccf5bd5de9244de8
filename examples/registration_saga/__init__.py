"""A user registers with four services, and what was done is undone where it cannot be finished: a saga."""
