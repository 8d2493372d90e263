"""Metrics: what each call counts, what a scrape shows, and what the manual says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxyd.metrics import Direction, Metrics
from proxyd.relay.outcome import Outcome
from proxyd.rewrite.plan import Outcome as PlanOutcome
from proxyd.rewrite.plan import Plan
from proxyd.rewrite.rewriter import Phase
from tests.proxyd.relay.stage import REFUSAL, REMOVED, value

MANUAL = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_each_fact_has_its_metric(metrics: Metrics) -> None:
    metrics.count_bytes("lab", Direction.TO_SOURCE, 5)
    assert value(metrics, "proxyd_bytes_total", route="lab", direction="to_source") == 5
    metrics.count_sections("lab", "full", 7)
    assert value(metrics, "proxyd_sections_total", route="lab", kind="full") == 7
    metrics.count_migration("lab", "completed")
    assert value(metrics, "proxyd_migrations_total", route="lab", outcome="completed") == 1
    metrics.count_plan("lab", Plan(PlanOutcome.LOADS_REWRITTEN, (REMOVED, REMOVED), (), (), (), ()))
    assert value(metrics, "proxyd_registers_total", route="lab", action="remove", verdict="proven") == 2
    metrics.count_refusals("lab", (REFUSAL,))
    assert value(metrics, "proxyd_registers_total", route="lab", action="refuse", verdict="unknown") == 1
    metrics.count_reload(applied=True)
    metrics.count_reload(applied=False)
    assert value(metrics, "proxyd_reloads_total", result="applied") == 1
    assert value(metrics, "proxyd_reloads_total", result="refused") == 1
    metrics.count_lost_lines(3)
    assert value(metrics, "proxyd_log_lines_lost_total") == 3
    metrics.move_session("lab", None, "prologue")
    metrics.move_session("lab", "prologue", "memory")
    assert value(metrics, "proxyd_active_sessions", phase="prologue") == 0
    assert value(metrics, "proxyd_active_sessions", phase="memory") == 1
    metrics.move_session("lab", "memory", None)
    assert value(metrics, "proxyd_active_sessions") == 0
    metrics.add_held("lab", 9)
    metrics.add_held("lab", -4)
    assert value(metrics, "proxyd_held_bytes", route="lab") == 5
    metrics.observe_release("lab", hold_s=0.3, rewrite_s=0.02)
    assert value(metrics, "proxyd_hold_seconds_sum", route="lab") == 0.3
    assert value(metrics, "proxyd_rewrite_seconds_bucket", route="lab", le="0.025") == 1
    metrics.watch_strangers(lambda: 4)
    assert value(metrics, "proxyd_silent_connections") == 4
    metrics.set_draining(draining=True)
    assert value(metrics, "proxyd_draining") == 1
    metrics.set_loaded(1e9)
    assert value(metrics, "proxyd_config_loaded_timestamp_seconds") == 1e9
    assert value(metrics, "proxyd_build_info") == 1


def test_a_route_s_series_are_there_before_the_first_migration(metrics: Metrics) -> None:
    metrics.declare_route("lab", outcomes=list(Outcome), phases=list(Phase))
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(metrics.registry).decode())}
    assert {s.labels["outcome"] for s in families["proxyd_migrations"].samples if s.name.endswith("_total")} == set(
        Outcome
    )
    assert {s.labels["phase"] for s in families["proxyd_active_sessions"].samples} == set(Phase)
    assert len(families["proxyd_registers"].samples) == 4 * 4
    assert len(families["proxyd_sections"].samples) == 4
    assert len(families["proxyd_reloads"].samples) == 2
    assert all(s.value == 0 for s in families["proxyd_migrations"].samples if s.name.endswith("_total"))


def test_two_daemons_in_one_process_do_not_share(metrics: Metrics) -> None:
    metrics.count_reload(applied=True)
    assert value(Metrics(), "proxyd_reloads_total") == 0


def test_memory_and_open_files_of_the_process_are_there(metrics: Metrics) -> None:
    assert value(metrics, "process_resident_memory_bytes") > 0
    assert value(metrics, "process_open_fds") > 0


def test_the_manual_has_every_metric_and_no_other(metrics: Metrics) -> None:
    """One table row per metric: name, type, labels."""
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(proxyd_\w+)` \| (counter|gauge|histogram|info) \| ([^|]*) \|", MANUAL.read_text(), re.MULTILINE
        )
    }
    declared = {}
    for collector in metrics.registry._collector_to_names:
        if not hasattr(collector, "_labelnames"):
            continue  # the process's own metrics
        suffix = {"counter": "_total", "info": "_info"}.get(collector._type, "")
        declared[collector._name + suffix] = (collector._type, tuple(collector._labelnames))
    assert documented == declared


def test_the_manual_has_every_value_of_every_closed_label() -> None:
    manual = MANUAL.read_text()
    closed = [*Outcome, *Phase, *Direction, "start", "part", "end", "full", "remove", "set", "add", "refuse"]
    closed += ["proven", "neutral", "lossy", "unknown", "applied", "refused"]
    assert [label for label in closed if f"`{label}`" not in manual] == []
