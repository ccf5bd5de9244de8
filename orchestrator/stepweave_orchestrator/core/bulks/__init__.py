"""Bulk operations: an action on every task that a filter finds. Pure, as everything in `core`.

A bulk operation is a stream. It selects a chunk of tasks, which is an event before anything is done with them; the
runtime asks each of them for the action, with a request id that follows from operation and task, and says what became
of the chunk; then the next one. Whatever is asked again after a crash is recognised by the tasks.

`state` what is known · `commands` what may be asked · `decide` what follows · `evolve` how events change the state ·
`actions` the command to one task · `view` what callers see.
"""
