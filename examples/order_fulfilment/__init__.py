"""A warehouse fulfils an order: payment and reservation side by side, handlers as classes."""
