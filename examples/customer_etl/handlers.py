"""The six steps of the pipeline.

Results carry numbers and the names of files; the rows themselves stay in the files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Final

from stepweave import (
    Batchable,
    BatchConfig,
    PermanentError,
    StepContext,
    StepHandler,
    StepHandlerResult,
    TimeoutError,
    ValidationError,
    batch_analyzer,
    depends_on,
    inputs,
    step_handler,
)

from . import files, services, sources, warehouse

ENRICHED_COLUMNS: Final = ("customer_id", "name", "email", "region", "income")
JOINED_COLUMNS: Final = (*ENRICHED_COLUMNS, "transaction_count", "amount_cents")
#: So many messages about skipped rows are kept for each partition; the count goes on.
MESSAGES_MAX: Final = 5


@batch_analyzer("extract_customer_profiles")
@inputs("customers", "corrupt_customers")
def extract_customer_profiles(
    customers: int, context: StepContext, corrupt_customers: list[int] | None = None
) -> BatchConfig:
    """Fetch the customers and write one file for each range of their ids; each file is a batch."""
    folder = files.folder_of(context)
    files.write_rows(
        folder / "sources" / "customers.csv",
        sources.CUSTOMER_COLUMNS,
        sources.customers(customers, corrupt_customers or ()),
    )
    rows = files.read_rows(folder / "sources" / "customers.csv")
    if not rows:
        return BatchConfig.none("there are no customers")
    size = context.step_inputs["batch_config"]["batch_size"]
    cursors = []
    for start in range(0, len(rows), size):
        partition = rows[start : start + size]
        name = f"extracted/customers_{start + 1:05d}-{start + len(partition):05d}.csv"
        files.write_rows(folder / name, sources.CUSTOMER_COLUMNS, partition)
        # A cursor is any JSON value: whatever tells a worker what its part is.
        cursors.append({"file": name, "rows": len(partition)})
    return BatchConfig.from_cursors(cursors, total_items=len(rows), batch_size=size)


@step_handler("extract_transaction_history")
@inputs("customers", "processing_date")
def extract_transaction_history(customers: int, processing_date: str, context: StepContext) -> dict[str, Any]:
    """Fetch the transactions and write one file for each month."""
    try:
        until = date.fromisoformat(processing_date)
    except ValueError as error:
        raise ValidationError(
            f"processing_date {processing_date}: {error}", error_code="INVALID_DATE"
        ) from None
    folder = files.folder_of(context)
    months: defaultdict[str, list[files.Row]] = defaultdict(list)
    for row in sources.transactions(customers, until):
        months[row[2][:7]].append(row)
    written = {}
    for month, rows in sorted(months.items()):
        name = f"extracted/transactions_{month}.csv"
        written[name] = files.write_rows(folder / name, sources.TRANSACTION_COLUMNS, rows)
    return {"files": list(written), "total_records": sum(written.values())}


@dataclass
class Progress:
    """How far a partition is; travels in its checkpoints."""

    skipped: int = 0
    messages: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class EnrichCustomerData(StepHandler, Batchable):
    """One partition, a few rows at a time.

    Each call does the rows up to the next checkpoint, writes them to a file of their own and returns. The step is then
    called again from there, at no attempt; after a failure or a lost worker it goes on from the same place. So no
    row that is behind a checkpoint is ever asked for again.
    """

    handler_name = "enrich_customer_data"

    def call(self, context: StepContext) -> StepHandlerResult:
        if (nothing_to_do := self.handle_no_op_worker(context)) is not None:
            return nothing_to_do
        batch = self.get_batch_worker_inputs(context)
        if batch is None:
            raise PermanentError(f"step {context.step_name} has no partition", error_code="NO_PARTITION")
        folder = files.folder_of(context)
        rows = files.read_rows(folder / batch.cursor["file"])
        progress = Progress(**(context.accumulated_results or {}))
        start = context.checkpoint_cursor or 0
        end = min(start + (batch.checkpoint_interval or len(rows)), len(rows))

        try:
            enriched = self._enrich(rows[start:end], self._api(context), progress)
        except services.ApiTimeout as error:
            # Nothing of these rows is written yet, and everything before them is behind a checkpoint.
            return StepHandlerResult.retryable_failure("api_timeout", {"message": str(error)})
        name = f"enriched/{context.step_name}_{start:05d}.csv"
        files.write_rows(folder / name, ENRICHED_COLUMNS, enriched)
        progress.files.append(name)

        if end < len(rows):
            return self.checkpoint_yield(end, items_processed=end, accumulated_results=asdict(progress))
        return self._finished(len(rows), progress, context.get_config("skipped_percent_max"))

    def _api(self, context: StepContext) -> services.DemographicsApi:
        simulate = context.get_input_or("simulate", {})
        return services.DemographicsApi(
            times_out_at=simulate.get("api_timeout_at_customer"),
            timeouts=simulate.get("api_timeouts", 1),
            request_number=context.attempt,
        )

    def _enrich(
        self, rows: Sequence[files.Row], api: services.DemographicsApi, progress: Progress
    ) -> list[files.Row]:
        enriched: list[files.Row] = []
        for row in rows:
            try:
                customer = services.read_customer(row)
            except services.MalformedRecord as error:
                # One spoilt row is no reason to do without the others.
                progress.skipped += 1
                if len(progress.messages) < MESSAGES_MAX:
                    progress.messages.append(str(error))
                continue
            known = api.look_up(customer)
            enriched.append(
                (str(customer.customer_id), customer.name, customer.email, known.region, known.income)
            )
        return enriched

    def _finished(self, processed: int, progress: Progress, skipped_percent_max: int) -> StepHandlerResult:
        if progress.skipped * 100 > processed * skipped_percent_max:
            # Trying again would read the same file: somebody has to look at the source.
            return StepHandlerResult.permanent_failure(
                "data_quality_issue",
                {
                    "message": f"{progress.skipped} of {processed} rows skipped, {skipped_percent_max} % at most",
                    "processed": processed,
                    "skipped": progress.skipped,
                    "error_rate": progress.skipped / processed,
                    "errors": progress.messages,
                },
            )
        return self.batch_worker_success(
            items_processed=processed,
            items_skipped=progress.skipped,
            results={"files": progress.files},
            errors=progress.messages,
        )


class JoinTransactions(StepHandler, Batchable):
    """Brings the partitions together, and with each customer what the customer has spent."""

    handler_name = "join_transactions"

    def call(self, context: StepContext) -> StepHandlerResult:
        folder = files.folder_of(context)
        partitions = self.detect_aggregation_scenario(
            context, "extract_customer_profiles", "enrich_customer_data"
        )
        amounts: defaultdict[str, list[int]] = defaultdict(list)
        for name in context.get_dependency_field("extract_transaction_history", "files"):
            for _, customer_id, _, amount_cents in files.read_rows(folder / name):
                amounts[customer_id].append(int(amount_cents))

        joined: list[files.Row] = []
        for partition in partitions.batch_results.values():
            for name in partition["results"]["files"]:
                for row in files.read_rows(folder / name):
                    own = amounts.pop(row[0], [])
                    joined.append((*row, str(len(own)), str(sum(own))))
        files.write_rows(folder / "joined.csv", JOINED_COLUMNS, joined)

        numbers = {
            "file": "joined.csv",
            "customers": len(joined),
            # Of customers whose rows were skipped.
            "transactions_without_customer": sum(map(len, amounts.values())),
            "partitions_missing": partitions.missing_count,
        }
        return self.aggregate_batch_worker_results(
            partitions, zero_metrics=numbers, aggregation_fn=lambda results: numbers
        )


@step_handler("load_to_warehouse")
@depends_on(joined="join_transactions")
@inputs("simulate")
def load_to_warehouse(
    joined: dict[str, Any], context: StepContext, simulate: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Load everything in one transaction, and check that everything arrived."""
    folder = files.folder_of(context)
    rows = files.read_rows(folder / joined["file"])
    loaded = warehouse.load(folder / "warehouse.db", rows, load_id=context.step_uuid)
    if (simulate or {}).get("warehouse_answer_lost") and not context.is_retry():
        # The worst of all: the rows are in, only the answer is lost.
        raise TimeoutError("the warehouse did not answer within 10 s", error_code="WAREHOUSE_TIMEOUT")
    if loaded.row_count != joined["customers"]:
        raise PermanentError(
            f"{loaded.row_count} customers are in the warehouse, {joined['customers']} were joined",
            error_code="LOAD_INCOMPLETE",
        )
    return {
        "customers": loaded.row_count,
        "amount_cents": loaded.amount_cents,
        "loaded_by_earlier_try": loaded.was_there,
    }


@step_handler("generate_summary_report")
@depends_on(
    joined="join_transactions", loaded="load_to_warehouse", transactions="extract_transaction_history"
)
@inputs("processing_date")
def generate_summary_report(
    processing_date: str,
    joined: dict[str, Any],
    loaded: dict[str, Any],
    transactions: dict[str, Any],
    context: StepContext,
) -> dict[str, Any]:
    """Say what the run came to, and pack the source files away."""
    folder = files.folder_of(context)
    report = {
        "processing_date": processing_date,
        "partitions": joined["worker_count"],
        "customers_read": joined["items_processed"],
        "customers_skipped": joined["items_skipped"],
        "customers_loaded": loaded["customers"],
        "transactions": transactions["total_records"],
        "transactions_without_customer": joined["transactions_without_customer"],
        "amount_cents": loaded["amount_cents"],
        "amount_cents_by_region": warehouse.amounts_by_region(folder / "warehouse.db"),
    }
    with files.whole(folder / "report.json") as unfinished:
        unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    archive = files.archive_sources(folder)
    return {**report, "folder": str(folder), "archive": archive.name}
