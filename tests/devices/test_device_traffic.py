"""The counts of experiments/device_traffic.py: a step from features waits for no GPU."""

import pytest
from small_networks import FEATURES

from experiments import device_traffic
from experiments.device_traffic import (
    METHODS,
    STEPS_COUNTED,
    decoding_table,
    decoding_traffic,
    training_table,
    training_traffic,
    write_files,
)


@pytest.fixture(autouse=True)
def _few_cases(pretended, monkeypatch):
    """Those that take long are left out."""
    steps = {name: case for name, case in STEPS_COUNTED.items() if name.startswith('features')}
    monkeypatch.setattr(device_traffic, 'STEPS_COUNTED', steps)
    monkeypatch.setattr(device_traffic, 'CHANNELS', FEATURES)


def test_a_step_from_features_copies_nothing_and_waits_for_nothing(device, tmp_path):
    write_files(tmp_path)
    _, *rows = training_table(training_traffic(device, tmp_path))
    assert len(rows) > 3
    for name, copies, waits, operations, copies_before, _ in rows:
        assert (copies, waits) == ('0', '0'), name
        assert 50 < float(operations) < 200 and float(copies_before) > 0, name


def test_a_word_is_written_without_a_copy(device):
    _, *rows = decoding_table(decoding_traffic(device))
    assert [row[0] for row in rows] == list(METHODS)
    for name, copies, waits, operations, *_ in rows:
        assert copies == '0' and float(waits) <= 0.25 and 10 < float(operations) < 100, name
