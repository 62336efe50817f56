"""Examine this machine: is it right, and as fast as it can be? At most five minutes.

    python -m scripts.doctor                    # what to paste into an issue
    python -m scripts.doctor --device cpu       # the CPU, where there is a GPU

docs/doctor.md says how to read it. Exit status 1 where something is WRONG.
"""

import argparse
import os
import sys

from captioning.devices import default_device
from captioning.doctor.examination import examine
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--device',
                        help='cuda, mps or cpu (default: the first of these that is there)')
    parser.add_argument('--quick', action='store_true',
                        help='measure so little that speeds mean nothing, for tests')
    args = parser.parse_args()
    if args.device:
        os.environ['CAPTIONING_DEVICE'] = args.device    # for all that asks for the default
    report = examine(default_device(), args.quick)
    if report.wrong:
        sys.exit(1)


if __name__ == '__main__':
    run_main(main)
