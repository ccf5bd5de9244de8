"""What a schedule *is*: a pure core of its own, like a task's.

A schedule is a stream of the system's own. It fires at nominal moments (`timing`, `cron`); a firing is an event that
orders a task to be started, and the task's end comes back as a command, so that overlap is decided from the
schedule's state alone. The next nominal moment is frozen in each event: replay asks neither the calendar nor the
data base of time zones.

Each nominal moment is accounted for once: it fires, or it is counted by a `schedule.skipped`. The id of the task
follows from schedule and moment, so whatever is ordered twice is one task.

| file | concept |
|---|---|
| `cron` | cron expressions in a time zone, over both changes of daylight-saving time |
| `timing` | when a schedule fires: cron, interval or once; bounds and jitter; what is wrong with a timing |
| `references` | `${schedule.date}` and the like inside a task's context |
| `state`, `commands` | what is known about a schedule, and what may be asked of it |
| `decide`, `evolve` | the two functions |
| `orders` | the messages that its events order |
| `view` | the schedule as callers see it |
"""
