from hypothesis import given, settings
from hypothesis import strategies as st

from engine.costs import CostGate


def learn(gate, compute, lookup, hits, times=400, key="k"):
    for _ in range(times):
        gate.computed(key, compute, 1)
        gate.looked_up(key, lookup, 10, hits)


def opened(gate, times=64, key="k"):
    return sum(gate.open(key) for _ in range(times))


def test_the_unknown_is_tried():
    gate = CostGate()
    assert gate.open("k")
    gate.computed("k", 1.0, 1)
    assert gate.open("k")


def test_a_cheap_lookup_stays_open_even_without_hits():
    gate = CostGate()
    learn(gate, compute=1.0, lookup=0.5, hits=0)
    assert opened(gate) == 64


def test_a_lookup_dearer_than_computing_closes_but_is_probed():
    gate = CostGate()
    learn(gate, compute=0.01, lookup=1.0, hits=10)
    assert opened(gate) == 2


def test_few_hits_close_a_gate_that_many_keep_open():
    few, many = CostGate(), CostGate()
    learn(few, compute=0.1, lookup=0.5, hits=1)
    learn(many, compute=0.1, lookup=0.5, hits=9)
    assert opened(few) == 2
    assert opened(many) == 64


def test_a_gate_follows_costs_that_change():
    gate = CostGate()
    learn(gate, compute=0.01, lookup=1.0, hits=10)
    learn(gate, compute=10.0, lookup=1.0, hits=10)
    assert opened(gate) == 64
    assert gate.seconds_per_row("k")[0] > 9


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=50))
def test_kinds_do_not_disturb_each_other(keys):
    gate = CostGate()
    learn(gate, compute=0.01, lookup=1.0, hits=10, key="dear")
    for key in keys:
        assert gate.open(key)
    assert opened(gate, key="dear") == 2


def test_what_was_not_asked_for_long_is_forgotten():
    gate = CostGate()
    learn(gate, compute=0.01, lookup=1.0, hits=10)
    for key in range(5000):
        gate.open(key)
    assert gate.open("k")
