"""Customers and transactions go into a warehouse: partitions side by side, checkpoints, a limit for spoilt rows."""
