"""Findings, their verdicts, and the report that they are printed in.

    report = Report()
    report.section('Right', [('features', check)])      # check() -> list of Finding
    print(report.summary()), report.wrong
"""

import math
import textwrap
import time
from typing import NamedTuple

import torch

OK, WRONG = 'ok', 'WRONG'
AS_EXPECTED, SLOWER = 'as expected', 'slower than expected'
WIDTH = 98               # of a line
COLUMNS = 38, 20, 17     # of name, measured, expected; the verdict follows


class Finding(NamedTuple):
    """One line of a section. verdict: one of the four above, or '' where nothing is expected.

    advice: of what is WRONG or slower, the most likely reason and what to try.
    """

    name: str
    measured: str = ''
    expected: str = ''
    verdict: str = ''
    advice: str = ''

    def __str__(self):
        cells = zip((self.name, self.measured, self.expected), COLUMNS, strict=True)
        line = ''.join(cell.ljust(width - 1) + ' ' for cell, width in cells)
        if not self.advice:
            return f'  {line}{self.verdict}'.rstrip()
        return f'  {line}{self.verdict}:\n' + indented(self.advice, 6)


def indented(text, indent):
    """A text, wrapped to the width of the report."""
    return textwrap.fill(text, WIDTH, initial_indent=' ' * indent, subsequent_indent=' ' * indent)


# ---- Verdicts ----

def at_most(name, value, bound, advice, quantity='difference'):
    """Finding: is a value, a float, within its bound? NaN is not."""
    verdict = OK if value <= bound else WRONG
    return Finding(name, f'{quantity} {value:.1e}', f'at most {bound:.0e}', verdict,
                   advice if verdict == WRONG else '')


def at_least(name, value, bound, advice, measured):
    """Finding: is a value at least so large? NaN is not. measured: the value as it is printed."""
    verdict = OK if value >= bound else WRONG
    return Finding(name, measured, f'at least {bound:g}', verdict,
                   advice if verdict == WRONG else '')


def at_rate(name, per_second, expected, unit, advice):
    """Finding: is a speed as high as is expected? expected: None where nothing is known."""
    measured = f'{number(per_second)} {unit}'
    if expected is None:
        return Finding(name, measured)
    return _judged(name, measured, f'at least {number(expected)}', per_second >= expected, advice)


def in_time(name, seconds, expected, measured, advice):
    """Finding: does something take no longer than is expected? measured: as it is printed."""
    if expected is None:
        return Finding(name, measured)
    return _judged(name, measured, f'at most {number(expected)} s', seconds <= expected, advice)


def _judged(name, measured, expected, fast_enough, advice):
    if fast_enough:
        return Finding(name, measured, expected, AS_EXPECTED)
    return Finding(name, measured, expected, SLOWER, advice)


def number(value):
    """Such as '1,234' or '12.3'; three digits are enough."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}'


# ---- The report ----

class Report:
    """What was measured, printed as it comes. findings: list of Finding."""

    def __init__(self):
        self.findings = []
        self.started = time.monotonic()

    def section(self, title, checks):
        """Print a section. checks: pairs (name, function that returns a list of Finding).

        An error of one is a finding, and does not end the others.
        """
        print(f'\n{title}')
        for name, check in checks:
            for finding in attempted(name, check):
                self.findings.append(finding)
                print(finding, flush=True)

    def table(self, title, tell):
        """Print what has no verdict. tell() -> pairs (name, text); its error is a finding."""
        def check():
            for name, text in tell():
                lines = textwrap.wrap(text, WIDTH - 27) or ['']
                print(f'  {name:<24} ' + ('\n' + ' ' * 27).join(lines), flush=True)
            return []

        self.section(title, [(title, check)])

    @property
    def wrong(self):
        return self._having(WRONG)

    def summary(self):
        """One line."""
        counts = [f'{len(self._having(OK))} right', f'{len(self.wrong)} WRONG',
                  f'{len(self._having(AS_EXPECTED))} as fast as expected',
                  f'{len(self._having(SLOWER))} slower']
        seconds = math.ceil(time.monotonic() - self.started)
        return f'Summary: {", ".join(counts)}. It took {seconds} s.'

    def _having(self, verdict):
        return [finding for finding in self.findings if finding.verdict == verdict]


def attempted(name, check):
    """The findings of a check; where it raises, one that tells the error.

    That the device has too little memory is no error of it.
    """
    try:
        return check()
    except torch.OutOfMemoryError:
        return [Finding(name, 'does not fit into the memory that is free')]
    except Exception as error:    # whatever it is, the others are to be examined
        first_line = (str(error).strip().splitlines() or [''])[0]
        return [Finding(name, verdict=WRONG, advice=f'{type(error).__name__}: {first_line}')]
