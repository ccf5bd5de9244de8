"""Three sources are extracted and transformed side by side, brought together, and read for what they say."""
