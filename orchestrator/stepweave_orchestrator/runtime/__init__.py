"""The shard owner at work: everything between the pure core, the ledger and NATS.

    CMD stream ─▶ consumer ─┐                                ┌─▶ publisher ─▶ LOG, EVT, DISP_<namespace>
    sw.own.<shard> ─▶ requests ─▶ owner: decide ─▶ batch ─▶ append (one statement) ─▶ answers, acks
    timers ─────────────────┘      ▲   actors (bounded)      └─▶ projector ─▶ tasks, templates
                                   └── loading ◀── ledger, snapshots

| file | concept |
|---|---|
| `orchestrator` | one process: the parts, started and stopped in order |
| `owner` | the loop: decide, commit, settle; what happens when a commit fails |
| `batch`, `work`, `actors` | a commit in the making, a command on its way, what is live in memory |
| `consumer`, `requests` | what workers say; what callers and other orchestrators ask |
| `publisher`, `streams` | from the ledger to JetStream, in order; the streams themselves |
| `leases`, `takeover` | which shards are ours; bringing the world up to date with a shard taken over |
| `loading`, `templates` | actors and templates from the ledger |
| `timers`, `projector`, `rebuild` | wake-ups; rows for lists and how they are made anew |
| `settings`, `metrics`, `support`, `crash_points`, `process` | bounds; counters; what is refused; tests' kill switch; `main` |

What happens on failure stands at the head of `owner` (commits), `publisher` (NATS away), `takeover` (an owner or
JetStream's storage gone) and `leases` (pauses).
"""
