"""Where the truth lives: the ledger of events, and everything that can be derived from it.

**What is stored.** Every task (every aggregate) has a *stream*: its events, numbered by *version* from 1. A
stream belongs to one *shard*, by a hash of its id. A shard is a *ledger*: the events of all its streams in one
order, numbered by *position* from 1 without a gap, each one hashed together with the hash before it.

**One writer.** A shard has a row: `epoch`, `owner`, the end of its lease, head position and head hash, and how
far the events have been published. An owner takes a shard for a time (`acquire_shards`), renews the lease
(`renew_shards`), and lets go (`release_shards`). Each change of hands raises the epoch.

**One statement appends.** `append` updates the rows of all shards it names, each under the condition that
epoch and head are what the writer believes, and inserts the events of the shards where that held. So the row
is three things at once: the fence (an owner whose lease was taken over writes nothing, however late its
statement arrives), the allocator of positions (no sequence, hence no gaps and nothing that becomes visible
out of order) and the head of the hash chain. Wake-ups, which say when a task wants to be woken, commit with
the events.

**What happens on failure.**

| | what the caller sees | what is stored |
|---|---|---|
| the epoch or the head of a shard moved | the shard is missing in the answer | nothing of that shard |
| a stream already holds a version | `WrongExpectedVersion` | nothing |
| content that cannot be stored | `UnstorableEvent` | nothing |
| the call contradicts itself | `ValueError` | nothing; it is not sent |
| no answer: server away, time-out | `StoreUnavailable` | unknown, until it is settled (see `store`) |

**What can be rebuilt.** Snapshots shorten replay. Projections (`tasks`, `templates`, `streams`, `dead_letters`) answer lists; they are
written by a projector with a checkpoint for each shard, and `reset_projections` empties them for a rebuild.

Read in this order: `store` (the contract), `hash_chain`, `sql/migrations/0001_ledger.sql`, `sql/append.sql`,
`postgres`; then `audit`, `replay`, `migrate`. `memory` keeps the same contract without a database; one
conformance suite (`tests/store`) runs on both. Nothing here needs asyncpg but `postgres` and `migrate`.
"""
