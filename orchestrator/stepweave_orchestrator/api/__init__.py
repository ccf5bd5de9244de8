"""How requests come in: `operations` checks and carries out, `service` listens on NATS.

Every orchestrator answers every request; what belongs to a shard goes on to the shard's owner. An answer to a
creation or an operator's action means that it is committed.
"""
