"""A purchase is approved by nobody, a manager, or a manager and finance: its amount decides which steps exist."""
