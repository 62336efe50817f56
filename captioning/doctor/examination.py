"""All sections of the report, in order.

    report = examine(device, quick=False)
"""

import functools

from captioning.devices import working_accelerator
from captioning.doctor import agreement
from captioning.doctor.machine import choice_rows, machine_rows
from captioning.doctor.report import Report
from captioning.doctor.sizes import size_for
from captioning.doctor.speed import Speed
from captioning.doctor.trials import trials


def examine(device, quick=False):
    """Examine a device, and print what there is to say of it -> Report.

    quick: measure so little that speeds mean nothing.
    """
    report, size = Report(), size_for(device, quick)
    speed = Speed(device, size)
    report.table('Machine', functools.partial(machine_rows, device))
    report.table('Chosen for it', functools.partial(choice_rows, device))
    report.section('Right: this device beside a CPU in float32', agreement.checks(device))
    report.section('Fast', speed.checks())
    report.section('Settings that are off by default', trials(speed))
    print(f'\n{report.summary()}{_about_gpu()}')
    return report


def _about_gpu():
    _, reason = working_accelerator()
    return ' A GPU is there and is not usable.' if reason else ''
