"""When a fleet waits for nodes, and when it ends the run with what its engines said."""

from __future__ import annotations

import time

import pytest

from corp_ray import fleet as module
from corp_ray.cluster import EnginePlan
from corp_ray.errors import EngineError
from corp_ray.fleet import Fleet
from corp_ray.records import Ready


class Actor:
    """What is asked of an actor that is about to start."""

    class _Method:
        @staticmethod
        def remote():
            return None

    __ray_ready__ = _Method


@pytest.fixture
def nodes(monkeypatch):
    """Ids of the living nodes, of one CPU each: a list that a test may change."""
    alive = ["a", "b", "c"]

    class Cluster:
        @staticmethod
        def nodes(excluded):
            return [{"CPU": 1.0} for node in alive if node not in excluded]

    class Ray:
        @staticmethod
        def nodes():
            return [{"NodeID": node, "NodeManagerAddress": f"at {node}"} for node in alive]

        @staticmethod
        def kill(actor):
            assert isinstance(actor, Actor)

    monkeypatch.setattr(module, "cluster", Cluster)
    monkeypatch.setattr(module, "ray", Ray)
    return alive


@pytest.fixture
def fleet(nodes):
    """Two engines on three nodes: the third place is a judge's."""
    plan = EnginePlan(0, 1, 0, spare=1)
    made = Fleet(lambda options: Actor(), lambda actor: None, lambda engine: None, plan, "a run")
    made.adjust()
    assert list(made.engines) == [1, 2]
    return made


def test_what_an_engine_said_ends_the_run_when_the_judges_place_alone_is_left(fleet, nodes):
    fleet.exclude(1, "a", EngineError("no model"))
    fleet.adjust()
    assert list(fleet.engines) == [2]
    fleet.exclude(2, "b", EngineError("no model either"))
    with pytest.raises(EngineError, match="node at b: no model either"):
        fleet.adjust()


def test_a_node_that_goes_later_is_waited_for(fleet, nodes):
    fleet.exclude(1, "a", EngineError("no model"))
    fleet.adjust()
    fleet.arrived(2, Ready("b", "an engine"))
    nodes.remove("b")
    fleet.lost(2)
    fleet.adjust()
    assert fleet.engines == {}
    nodes.append("d")
    fleet.adjust()
    assert list(fleet.engines) == [3]


def test_an_engine_lost_on_a_node_that_is_left_out_is_not_waited_for(fleet, nodes):
    fleet.arrived(2, Ready("b", "an engine"))
    fleet.exclude(1, "b", EngineError("other weights"))  # a third one, on the same node
    nodes.remove("a")
    fleet.lost(2)
    with pytest.raises(EngineError, match="node at b: other weights"):
        fleet.adjust()


def test_an_engine_that_had_to_leave_its_node_and_finds_no_other_ends_the_run(fleet, nodes):
    fleet.check_room(0.0)  # nobody refused anything: it is waited for room
    fleet.exclude(1, "a", EngineError("no model"))
    fleet.check_room(60.0)
    fleet.has_begun(2)
    fleet.check_room(0.0)
    fleet.engines[2].began = None
    time.sleep(0.01)
    with pytest.raises(EngineError, match="node at a: no model"):
        fleet.check_room(0.0)
    fleet.arrived(2, Ready("b", "an engine"))
    fleet.lost(2)
    fleet.adjust()
    time.sleep(0.01)
    fleet.check_room(0.0)  # the place there is taken, and may be free again
