"""What travels and what is kept: every message, every event, and the names of the places where they travel.

This package is the bottom of the project. It opens no socket, reads no file and imports nothing above it; the
orchestrator, the event store and the SDK all speak in its words, and workers in other languages read the JSON
Schemas that are generated from it.

A task's way, in messages:

    client ── api.CreateTask ──▶ orchestrator ── events.TaskCreated, StepEnqueued ──▶ event store
                                      │  ◀── committed
                                      ├── dispatch.Dispatch ──▶ worker
                                      │                           │ runs the handler
                                      │ ◀── result.Success … ─────┘
                                      └── envelope.Envelope(event) ──▶ log feed, signal feed

| module | concept |
|---|---|
| `events` | what happened: frozen structs, tagged by `type`, never changed once released |
| `envelope` | how an event travels: who, when, where in the ledger, why; its bytes are what hashes cover |
| `catalogue` | what each event means, when it is emitted, what it changes; for people |
| `dispatch` | the order to run one try of a step |
| `result` | what a worker says about a try |
| `api` | requests and answers, the same over NATS and HTTP; `ApiError` is a refusal |
| `template` | what a template file may say, read with every problem found at once |
| `subjects` | every NATS subject and stream name, built and parsed |
| `identity` | ids that follow from other values: shards, step uuids, digests |
| `mint` | fresh ids and the clock, the only impure module |
| `codec`, `raw` | values to bytes and back; JSON that is passed on unread |
| `json_schemas` | the schemas of all of these for other languages |

Three habits make it last. Structs grow by fields with defaults, and readers ignore what they do not know (API
requests excepted, where an unknown field is a typing error worth telling). Raw JSON of users (`context`, `result`)
is passed on byte by byte. And what is generated is committed: `python -m stepweave_schemas` writes `schemas/json/`
and `docs/reference/events.md`, `--check` says whether they are what the code says.
"""
