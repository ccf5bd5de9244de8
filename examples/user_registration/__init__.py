"""A user registers with four services: a diamond, with handlers in both styles."""
