"""Examples below the help of commands, and in the reference: what people would type. Words in capitals are theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: By what is typed after `stepweave`. A test holds each one against the command's own arguments and options.
EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "explain": (
        "stepweave explain TASK",
        "stepweave explain TASK --step charge",
        "stepweave explain TASK --ledger      # where no orchestrator answers",
    ),
    "task list": (
        "stepweave task list --status blocked_by_failures --namespace shop",
        "stepweave task list --tag schedule:reports/daily",
    ),
    "task pause": ('stepweave task pause TASK --reason "the bank is down"',),
    "task resume": ('stepweave task resume TASK --reason "the bank is back"',),
    "task retry": ('stepweave task retry TASK --reason "the bank is back"',),
    "task give-up": ('stepweave task give-up TASK --reason "the customer has cancelled"',),
    "task resolve": ('stepweave task resolve TASK --reason "shipped by hand, see ticket 4711"',),
    "task fork": (
        "stepweave task fork TASK --version latest --dry-run",
        'stepweave task fork TASK --from charge --context \'{"count": 2}\' --reason "a wrong count"',
    ),
    "step reset": ('stepweave step reset TASK charge --reason "the bank is back"',),
    "step resolve": ('stepweave step resolve TASK notify --reason "the customer knows"',),
    "step complete": (
        'stepweave step complete TASK charge --set payment_id=p-17 --reason "charged by phone"',
        'stepweave step complete TASK route --result \'{"create_steps": ["express"]}\'',
    ),
    "step skip": ('stepweave step skip TASK advertise --reason "not for this one"',),
    "bulk retry": (
        "stepweave bulk retry --name order --status blocked_by_failures --dry-run",
        'stepweave bulk retry --name order --status blocked_by_failures --rate 5 --reason "the bank is back" --yes',
    ),
    "bulk cancel": (
        "stepweave bulk cancel --namespace shop --created-from 2h --dry-run",
        'stepweave bulk cancel --namespace shop --created-from 2h --reason "sent twice" --detach --yes',
    ),
    "bulk pause": ('stepweave bulk pause --namespace payments --reason "the bank moves" --yes',),
    "bulk resume": ('stepweave bulk resume --namespace payments --status paused --reason "it has" --yes',),
    "bulk give-up": ("stepweave bulk give-up --name order --status blocked_by_failures --dry-run",),
    "bulk resolve": ("stepweave bulk resolve --name order --tag migrated --dry-run",),
    "dlq list": ("stepweave dlq list --namespace shop", "stepweave dlq list --all"),
    "dlq queue": ("stepweave dlq queue --namespace shop",),
    "dlq resolve": (
        'stepweave dlq resolve ENTRY --status investigating --notes "ada looks at it"',
        'stepweave dlq resolve ENTRY --notes "paid by transfer" --metadata \'{"ticket": 4711}\'',
    ),
    "schedule create": (
        "stepweave schedule create --file daily.yaml",
        'stepweave schedule create reports/daily --template reports/daily --cron "0 6 * * MON-FRI" '
        "--time-zone Europe/Berlin",
        "stepweave schedule create reports/hourly --template reports/refresh --every 1h --overlap skip",
        "stepweave schedule create reports/once --template reports/cleanup --at 2h",
    ),
    "schedule preview": (
        'stepweave schedule preview --cron "30 2 * * *" --time-zone Europe/Berlin',
        "stepweave schedule preview --every 15m",
    ),
    "schedule pause": ('stepweave schedule pause reports/daily --note "until the new warehouse is up"',),
    "schedule trigger": ("stepweave schedule trigger reports/daily",),
    "schedule backfill": (
        "stepweave schedule backfill reports/daily --from 7d --dry-run",
        "stepweave schedule backfill reports/daily --from 2026-01-05T00:00:00Z --until 2026-01-10T00:00:00Z "
        "--concurrency 2",
    ),
    "schedule delete": ('stepweave schedule delete reports/daily --reason "replaced by reports/hourly"',),
    "limit show": ("stepweave limit list", "stepweave limit show ID"),
    "circuit open": ('stepweave circuit open bank --for 1800 --reason "the bank moves"',),
    "circuit close": ("stepweave circuit close bank --namespace payments",),
    "circuit show": ("stepweave circuit show bank --namespace payments",),
    "orchestrator run": (
        "stepweave orchestrator run --shards 32",
        "STEPWEAVE_RATES_BY_NAMESPACE='{\"payments\": 50}' stepweave orchestrator run",
    ),
    "worker run": (
        "stepweave worker run ./handlers.py",
        "stepweave worker run shop.handlers --namespace shop --queue default --concurrency 50 --processes 4",
    ),
}


def add_examples(program: Any) -> None:
    """Give the commands of the program (a `click` command object) their examples."""
    for path, examples in EXAMPLES.items():
        command = program
        for name in path.split():
            command = command.commands[name]
        # The mark keeps the lines as they are.
        command.epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in examples)))
