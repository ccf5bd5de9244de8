"""Daily reports that start by the clock: the data are refreshed, three reports are made side by side and sent."""
