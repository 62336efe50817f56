"""Settings that are off by default, tried on this machine against the plain way.

    findings = tried(trial, device, size)

Another one is a function and an entry in TRIALS.
"""

from typing import NamedTuple

from captioning.doctor.report import OK, WRONG, Finding, number

WORTH_IT = 1.1    # times as fast, or it is not recommended


class Trial(NamedTuple):
    """setting: its name on the command line. measure(device, size) -> Outcome."""

    setting: str
    measure: object


class Outcome(NamedTuple):
    """Speeds a second without and with the setting, in `unit`; agrees: are results the same?"""

    without: float
    with_setting: float
    unit: str
    agrees: bool


TRIALS = ()


def tried(trial, device, size):
    """Try a setting -> list of one Finding, with a recommendation."""
    outcome = trial.measure(device, size)
    times = outcome.with_setting / outcome.without
    measured = f'{times:.2f} times as fast'
    rates = (f'{number(outcome.without)} {outcome.unit} without, '
             f'{number(outcome.with_setting)} with it')
    if not outcome.agrees:
        advice = f'its results differ ({rates}): leave it off'
        return [Finding(trial.setting, measured, verdict=WRONG, advice=advice)]
    if times >= WORTH_IT:
        return [Finding(trial.setting, measured, verdict=OK, advice=f'recommended here: {rates}')]
    return [Finding(trial.setting, measured, verdict=OK, advice=f'not worth it here: {rates}')]
