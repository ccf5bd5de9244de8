"""The orchestrator: it owns shards of tasks, decides what happens next, and tells the workers.

Read in this order:

- `core/` – what a task *is*: two pure functions, `decide` and `evolve`.
- `stepweave_eventstore` – where the truth lives: the shard ledger in Postgres.
- `runtime/` – how the two meet: the loop of a shard owner, the publisher, leases, take-over.
- `api/` – how requests come in over NATS.
- `embedded/` – real PostgreSQL and NATS for one machine; `cli/` – the command line; `bench/` – the benchmark.

A fact exists when it is committed to Postgres. NATS carries it to whoever wants to know, and can be lost and
rebuilt at any time.
"""
