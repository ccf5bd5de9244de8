"""Order, layers and drawings, from one step to ten thousand."""

from __future__ import annotations

import pytest

from stepweave_schemas.template import (
    HandlerSpec,
    StepTemplate,
    TaskTemplate,
    ancestors,
    dependents,
    drawing,
    layers,
    load_template,
    mermaid,
    topological_order,
)


def template(**edges: str) -> TaskTemplate:
    """A template by its edges: `d="b c"` is a step `d` that depends on `b` and `c`."""
    return load_template(
        "name: t\nsteps:\n"
        + "".join(
            f"- {{name: {name}, handler: h, depends_on: [{', '.join(needs.split())}]}}\n"
            for name, needs in edges.items()
        )
    ).template


def chain(length: int) -> TaskTemplate:
    return template(**{f"s{number}": f"s{number - 1}" if number else "" for number in range(length)})


def fan(width: int) -> TaskTemplate:
    workers = {f"work_{number}": "split" for number in range(width)}
    return template(split="", **workers, join=" ".join(workers))


DIAMOND = template(a="", b="a", c="a", d="b c")


def test_order_and_neighbours() -> None:
    assert topological_order(DIAMOND) == ("a", "b", "c", "d")
    assert layers(DIAMOND) == (("a",), ("b", "c"), ("d",))
    assert dependents(DIAMOND) == {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ()}
    assert ancestors(DIAMOND, "d") == ("b", "c", "a")
    assert ancestors(DIAMOND, "a") == ()
    with pytest.raises(KeyError):
        ancestors(DIAMOND, "z")


def test_order_of_steps_written_backwards() -> None:
    assert topological_order(template(c="b", b="a", a="")) == ("a", "b", "c")


def unchecked(*edges: tuple[str, tuple[str, ...]]) -> TaskTemplate:
    """A template that no check has seen."""
    return TaskTemplate(
        name="t",
        steps=tuple(
            StepTemplate(name=name, handler=HandlerSpec(callable="h"), dependencies=needs)
            for name, needs in edges
        ),
    )


def test_a_circle_has_no_order() -> None:
    circle = unchecked(("a", ("b",)), ("b", ("a",)))
    with pytest.raises(ValueError, match="a -> b"):
        topological_order(circle)
    with pytest.raises(ValueError, match="circle"):
        drawing(circle)
    with pytest.raises(ValueError, match="itself"):
        topological_order(unchecked(("a", ("a",))))


def test_a_missing_dependency_is_named() -> None:
    with pytest.raises(ValueError, match="no step 'b'"):
        topological_order(unchecked(("a", ("b",))))


def test_ten_thousand_steps() -> None:
    long = chain(10_000)
    assert topological_order(long)[-1] == "s9999"
    assert len(ancestors(long, "s9999")) == 9_999
    assert "… 9,990 more" in drawing(long)
    assert mermaid(long).count("-->") == 9_999
    wide = fan(9_000)
    assert len(layers(wide)[1]) == 9_000
    assert "… 8,997 more" in drawing(wide)


def test_mermaid() -> None:
    assert mermaid(DIAMOND).splitlines() == [
        "---",
        "title: default/t:1.0.0",
        "---",
        "flowchart TD",
        '  s0["a"]',
        '  s1["b"]',
        '  s2["c"]',
        '  s3["d"]',
        "  s0 --> s1",
        "  s0 --> s2",
        "  s1 --> s3",
        "  s2 --> s3",
    ]


def test_mermaid_shows_types() -> None:
    text = (
        "name: t\nsteps:\n- {name: d, handler: h, type: decision}\n- {name: e, handler: h, depends_on: d}\n"
    )
    assert '  s0{"d"}' in mermaid(load_template(text).template).splitlines()


EVERY_KIND = """\
name: t
steps:
- {name: choose, handler: h, type: decision}
- {name: split, handler: h, type: batchable, depends_on: choose}
- {name: work, handler: h, type: batch_worker, depends_on: split}
- {name: approve, wait_for_signal: {name: go}, depends_on: choose}
- {name: refund, child_task: {name: refund}, depends_on: approve}
- {name: finish, handler: h, type: deferred_convergence, depends_on: [work, refund]}
"""


def test_every_kind_of_step_has_its_shape() -> None:
    lines = mermaid(load_template(EVERY_KIND).template).splitlines()
    assert lines[4:10] == [
        '  s0{"choose"}',
        '  s1[/"split"\\]',
        '  s2[/"work"/]',
        '  s3{{"approve"}}',
        '  s4[["refund"]]',
        '  s5(["finish"])',
    ]


def test_every_kind_of_step_has_its_label() -> None:
    text = drawing(load_template(EVERY_KIND).template)
    for label in (
        "choose (decision)",
        "split (batchable)",
        "work (batch worker)",
        "approve (signal)",
        "refund (child task)",
        "finish (deferred convergence)",
    ):
        assert f"│ {label} │" in text


def test_one_step() -> None:
    assert drawing(template(only="")) == ("default/t:1.0.0 · 1 step\n\n┌──────┐\n│ only │\n└──────┘\n")


def test_drawing_of_a_chain() -> None:
    assert drawing(chain(2)).splitlines() == [
        "default/t:1.0.0 · 2 steps",
        "",
        "┌────┐",
        "│ s0 │",
        "└──┬─┘",
        "   │",
        "   ▼",
        "┌────┐",
        "│ s1 │",
        "└────┘",
    ]


def test_drawing_of_a_diamond() -> None:
    assert drawing(DIAMOND).splitlines()[2:] == [
        "    ┌───┐",
        "    │ a │",
        "    └─┬─┘",
        "  ┌───┴───┐",
        "  ▼       ▼",
        "┌───┐   ┌───┐",
        "│ b │   │ c │",
        "└─┬─┘   └─┬─┘",
        "  └───┬───┘",
        "      ▼",
        "    ┌───┐",
        "    │ d │",
        "    └───┘",
    ]


def test_drawing_of_a_folded_fan() -> None:
    text = drawing(fan(100))
    assert "default/t:1.0.0 · 102 steps" in text
    assert "│ work_0 │   │ work_1 │   │ work_2 │   │ … 97 more │" in text
    assert "work_3" not in text


def test_a_line_passes_the_layers_between() -> None:
    text = drawing(template(a="", b="a", c="a b", lonely=""))
    assert text.splitlines()[2:] == [
        "   ┌───┐   ┌────────┐",
        "   │ a │   │ lonely │",
        "   └─┬─┘   └────────┘",
        "  ┌──┴──┐",
        "  ▼     │",
        "┌───┐   │",
        "│ b │   │",
        "└─┬─┘   │",
        "  └──┬──┘",
        "     ▼",
        "   ┌───┐",
        "   │ c │",
        "   └───┘",
    ]


def test_types_stand_in_the_boxes() -> None:
    text = (
        "name: t\nsteps:\n- {name: d, handler: h, type: decision}\n- {name: e, handler: h, depends_on: d}\n"
    )
    assert "│ d (decision) │" in drawing(load_template(text).template)


def test_a_tangle_becomes_a_list() -> None:
    edges = {
        f"step_{number}": " ".join(sorted({f"step_{number * 7 % 31 % number}", f"step_{number // 2}"}))
        if number
        else ""
        for number in range(120)
    }
    lines = drawing(template(**edges)).splitlines()
    assert lines[2].split() == ["1", "step_0"]
    assert lines[3].split()[:4] == ["2", "step_1", "←", "step_0"]
    named = {word.rstrip(",") for line in lines[2:] for word in line.split() if word.startswith("step_")}
    assert named == set(edges)


def test_drawings_are_bounded() -> None:
    edges = {
        f"s{number}": " ".join(f"s{number // 3 + more}" for more in (0, 1) if number // 3 + more < number)
        for number in range(3_000)
    }
    text = drawing(template(**edges))
    assert len(text.splitlines()) <= 203
    assert "more" in text.splitlines()[-1]


def test_lines_fit_the_width() -> None:
    wide = template(**{f"a_rather_long_name_{number}": "" for number in range(6)}, end="a_rather_long_name_0")
    assert max(len(line) for line in drawing(wide, width_max=60).splitlines()) <= 60
    assert "←" in drawing(wide, width_max=60)
    assert "▼" in drawing(wide, width_max=200)
