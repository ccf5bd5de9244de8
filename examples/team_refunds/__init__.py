"""Two teams, each with a `process_refund` of its own: customer success approves, and starts the one of payments."""
