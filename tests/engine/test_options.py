import os

import pytest

from contracts.errors import InvalidInput
from engine.options import SessionOptions, providers, threads_from_cgroup

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("6400000 100000", min(CORES, 64)),
        ("nonsense", CORES),
        ("100000 0", CORES),
    ],
)
def test_threads_follow_the_quota_of_version_2(tmp_path, text, expected):
    (tmp_path / "cpu.max").write_text(text)
    assert threads_from_cgroup(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", CORES)])
def test_threads_follow_the_quota_of_version_1(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads_from_cgroup(tmp_path) == expected


def test_without_a_cgroup_the_affinity_counts(tmp_path):
    assert threads_from_cgroup(tmp_path) == CORES


def test_the_cpu_is_the_last_resort():
    assert providers()[-1] == "CPUExecutionProvider"


@pytest.mark.parametrize("name", ["threads", "element_budget", "queue_rows"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(InvalidInput, match=name):
        SessionOptions(**{name: 0})
