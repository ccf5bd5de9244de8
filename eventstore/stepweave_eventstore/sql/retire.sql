-- retire: the orchestrator process $1 goes away.
DELETE FROM stepweave.orchestrators WHERE owner = $1
