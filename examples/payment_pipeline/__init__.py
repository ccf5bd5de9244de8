"""A payment in two phases: the money is put on hold, then captured, and can be let go in between."""
