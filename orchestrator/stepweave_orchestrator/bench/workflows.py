"""The templates that the benchmark runs; each of their steps does nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, Literal

Workflow = Literal["chain", "diamond", "fanout"]

NAMESPACE: Final = "bench"
HANDLER: Final = "bench_noop"
CHAIN_STEPS: Final = 5
FANOUT_PARTS: Final = 100
#: A task of layers: this many steps in each, of which each depends on its whole layer before.
LAYER_STEPS: Final = 10

BATCHES_NAME: Final = "batches"
#: The input that says how many batches the task is cut into.
BATCHES_INPUT: Final = "batches"
#: The analyser, and the step that brings the batches together.
STEPS_BESIDE_BATCHES: Final = 2
CUT_HANDLER: Final = "bench_cut"
PART_HANDLER: Final = "bench_part"
COLLECT_HANDLER: Final = "bench_collect"


def _step(name: str, dependencies: Iterable[str] = ()) -> dict[str, Any]:
    return {"name": name, "handler": {"callable": HANDLER}, "dependencies": list(dependencies)}


def _template(name: str, steps: list[dict[str, Any]]) -> str:
    return json.dumps({"namespace": NAMESPACE, "name": name, "version": "1.0.0", "steps": steps})


def chain() -> str:
    """Five steps, one after the other."""
    return _template(
        "chain",
        [_step(f"step_{number}", [f"step_{number - 1}"] if number else []) for number in range(CHAIN_STEPS)],
    )


def diamond() -> str:
    """A start, two branches, a join."""
    return _template(
        "diamond",
        [
            _step("start"),
            _step("left", ["start"]),
            _step("right", ["start"]),
            _step("join", ["left", "right"]),
        ],
    )


def fanout() -> str:
    """A hundred parallel steps and a join."""
    parts = [f"part_{number}" for number in range(FANOUT_PARTS)]
    return _template("fanout", [*(_step(part) for part in parts), _step("join", parts)])


def layered_name(steps: int) -> str:
    """The name of the layered template with so many steps."""
    return f"layered_{steps}"


def layered(steps: int) -> str:
    """Layers of `LAYER_STEPS` steps, `steps` in all (a multiple of it)."""
    layers = [
        [f"step_{layer}_{number}" for number in range(LAYER_STEPS)] for layer in range(steps // LAYER_STEPS)
    ]
    return _template(
        layered_name(steps),
        [
            _step(name, layers[number - 1] if number else [])
            for number, layer in enumerate(layers)
            for name in layer
        ],
    )


def batches() -> str:
    """A step that cuts as many batches as the input says, one step for each of them, and one behind all."""
    return _template(
        BATCHES_NAME,
        [
            {
                "name": "cut",
                "type": "batchable",
                "handler": {"callable": CUT_HANDLER},
                "batch_config": {"worker_template": "part"},
            },
            {
                "name": "part",
                "type": "batch_worker",
                "handler": {"callable": PART_HANDLER},
                "dependencies": ["cut"],
            },
            {
                "name": "collect",
                "type": "deferred_convergence",
                "handler": {"callable": COLLECT_HANDLER},
                "dependencies": ["part"],
            },
        ],
    )
