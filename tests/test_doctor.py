"""The doctor: its report has every section, and what is planted is noticed."""

import contextlib
import functools
import io
import sys

import pytest
import torch

from captioning import devices, files
from captioning.doctor import agreement, trials
from captioning.doctor.agreement import Step, like_step
from captioning.doctor.machine import machine_rows
from captioning.doctor.report import (
    AS_EXPECTED,
    OK,
    SLOWER,
    WRONG,
    Finding,
    Report,
    at_least,
    at_most,
    at_rate,
    attempted,
    in_time,
)
from captioning.doctor.sizes import QUICK
from captioning.doctor.speed import Speed
from captioning.doctor.trials import Outcome
from captioning.doctor.yardsticks import Work, Yardsticks
from captioning.encoding import FrozenBackbone
from model import EncoderCNN
from scripts import doctor

CPU = torch.device('cpu')
NAN = float('nan')

pytestmark = pytest.mark.usefixtures('cpu_in_float32')


def run_doctor():
    """The command, quick and on the CPU -> (exit status, what it printed)."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setenv('CAPTIONING_DEVICE', 'before')
        patch.setattr(sys, 'argv', ['doctor', '--quick', '--device', 'cpu'])
        try:
            status = doctor.main()
        except SystemExit as end:
            status = end.code
    return status, output.getvalue()


def verdicts(findings):
    return [finding.verdict for finding in findings]


# ---- The report ----

def test_the_report_has_every_section_and_leaves_the_repository_alone():
    def content():
        return [sorted(folder.rglob('*')) for folder in (files.RUNS, files.CACHE)]

    before = content()
    status, output = run_doctor()
    assert not status and content() == before
    sections = ['Machine', 'Chosen for it', 'Right: this device beside a CPU in float32', 'Fast',
                'Settings that are off by default']
    titles = [line for line in output.splitlines() if line and line[0] != ' ']
    assert titles[:-1] == sections and titles[-1].startswith('Summary: 2 right, 0 WRONG')
    assert all(len(line) <= 100 for line in output.splitlines())
    lines = {line[2:40].strip(): line for line in output.splitlines()}
    assert '5 of 5 equal' in lines['captions, CPU, float32']
    assert 'difference 0.0e+00' in lines['a run stopped and continued']
    assert lines['features'].endswith('does not apply: a CPU that computes in float32 alone')
    assert lines['--cuda-graphs'].endswith('does not apply: this device has none')
    for name in ('encoding, batches of 2', 'from files to features', 'captions decoded, greedy',
                 "COCO's epoch, attention, 16"):
        assert AS_EXPECTED in lines[name] or SLOWER in lines[name]


def test_wrong_captions_end_with_status_1_and_other_checks_go_on(monkeypatch):
    def mean_image(frozen, images, encode=FrozenBackbone.encode):
        return encode(frozen, images).mean(dim=0, keepdim=True).expand(len(images), -1, -1)

    def only_captions(device):
        return [('captions', functools.partial(agreement.captions_agree, device))]

    def trial(speed):
        return Outcome(1.0, 2.0, 'captions/s', agrees=True)

    monkeypatch.setattr(FrozenBackbone, 'encode', mean_image)
    monkeypatch.setattr(agreement, 'checks', only_captions)
    monkeypatch.setattr(Speed, 'checks', lambda speed: [('broken', lambda: 1 / 0)])
    monkeypatch.setattr(trials, 'TRIALS', {'--fast': trial})
    status, output = run_doctor()
    assert status == 1
    assert 'not what the captioner that ships wrote' in output
    assert 'ZeroDivisionError: division by zero' in output
    assert 'recommended here: 1.0 captions/s without, 2.0 with it' in output
    assert 'Summary: 1 right, 2 WRONG, 0 as fast as expected, 0 slower.' in output


def test_a_check_that_raises_is_wrong_by_its_first_line_and_does_not_end_the_others(capsys):
    def broken():
        raise RuntimeError('no kernel image\nCompile with TORCH_USE_CUDA_DSA')

    report = Report()
    report.section('Right', [('first', broken), ('second', lambda: [Finding('second', '7')])])
    output = capsys.readouterr().out
    assert 'RuntimeError: no kernel image\n' in output and 'Compile' not in output
    assert 'second' in output and verdicts(report.findings) == [WRONG, '']


def test_verdicts_turn_at_their_bounds():
    assert verdicts([at_most('a', value, 0.1, 'try') for value in (0.1, 0.11, NAN)]) == [
        OK, WRONG, WRONG]
    assert verdicts([at_least('a', value, 0.9, 'try', '') for value in (0.9, 0.89, NAN)]) == [
        OK, WRONG, WRONG]
    assert verdicts([at_rate('a', value, 5, 'images/s', 'try') for value in (5, 4.9)]) == [
        AS_EXPECTED, SLOWER]
    assert verdicts([in_time('a', value, 5, '', 'try') for value in (5, 5.1)]) == [
        AS_EXPECTED, SLOWER]
    assert verdicts([at_rate('a', 5, None, 'images/s', ''), in_time('a', 5, None, '', '')]) == [
        '', '']
    assert at_most('a', 0.1, 0.1, 'try').advice == ''
    assert str(at_rate('a', 4, 5, 'images/s', 'try')).endswith('slower than expected:\n      try')


# ---- What is wrong ----

def test_features_of_a_device_that_differ_are_wrong(monkeypatch, small_weights):
    small = functools.partial(EncoderCNN, backbone='resnet18', weights=small_weights)
    monkeypatch.setattr(agreement, 'EncoderCNN', small)
    monkeypatch.setattr(agreement, 'fast_dtype', lambda device: torch.bfloat16)
    monkeypatch.setattr(agreement, 'features_of', functools.partial(agreement.features_of, count=1))
    finding, = agreement.features_agree(CPU)
    assert finding.verdict == OK and finding.name == 'features, bfloat16'
    computed = FrozenBackbone.encode
    monkeypatch.setattr(FrozenBackbone, 'encode', lambda frozen, images: (
        computed(frozen, images) * (1.1 if frozen.dtype == torch.bfloat16 else 1)))
    assert verdicts(agreement.features_agree(CPU)) == [WRONG]


def test_a_loss_and_gradients_of_a_device_that_differ_are_wrong(monkeypatch):
    made = []

    def another_phase(*arguments, phase=agreement.features_phase, **settings):
        made.append(phase(*arguments, **settings))
        if len(made) == 4:    # after that of the CPU: the device
            made[-1].model.decoder.linear.weight.data *= 3
        return made[-1]

    monkeypatch.setattr(agreement, 'features_phase', another_phase)
    monkeypatch.setattr(agreement, 'step_of', functools.partial(agreement.step_of, images=4))
    monkeypatch.setattr(agreement, 'compared_dtypes', lambda device, fast: [torch.float32])
    assert verdicts(agreement.gradients_agree(CPU, 'every')) == [OK, OK]
    assert verdicts(agreement.gradients_agree(CPU, 'every')) == [WRONG, WRONG]


def test_gradients_that_vanish_or_turn_or_are_not_finite_are_wrong():
    torch.manual_seed(0)
    gradients = [1e-6 * torch.randn(1000), torch.randn(1000)]
    step = Step(1.0, gradients)

    def verdicts_of(*changed):
        return verdicts(like_step('bfloat16', Step(1.0, list(changed)), step))

    rounded = [gradient.bfloat16().float() for gradient in gradients]
    assert verdicts_of(*rounded) == [OK, OK]
    flushed = torch.where(gradients[0].abs() < 1e-8, 0, gradients[0])
    assert verdicts_of(flushed, rounded[1]) == [OK, WRONG]
    assert verdicts_of(rounded[0].flip(0), rounded[1]) == [WRONG, OK]
    assert verdicts_of(rounded[0] * torch.inf, rounded[1]) == [WRONG, OK]


def test_a_device_is_compared_in_float32_and_in_the_dtype_that_it_is_used_in():
    gpu = torch.device('cuda')
    assert agreement.compared_dtypes(gpu, torch.bfloat16) == [torch.float32, torch.bfloat16]
    assert agreement.compared_dtypes(gpu, torch.float32) == [torch.float32]
    assert agreement.compared_dtypes(CPU, torch.bfloat16) == [torch.bfloat16]
    assert agreement.compared_dtypes(CPU, torch.float32) == []


def test_a_gpu_that_is_not_usable_is_named(monkeypatch):
    monkeypatch.setattr(devices, 'working_accelerator', lambda: (None, 'V100: no kernel image'))
    assert ('a GPU is not usable', 'V100: no kernel image') in machine_rows(CPU)


# ---- What is slow ----

def test_expected_seconds_follow_from_the_yardsticks():
    yardsticks = Yardsticks({torch.float32: 100.0}, gigabytes=10.0, call_seconds=1e-5)
    parts = yardsticks.parts(Work(operations=1e11, bytes=2e10, calls=1e5), torch.float32)
    assert parts == {'arithmetic': 1.0, 'memory': 2.0, 'calls': pytest.approx(1.0)}
    speed = Speed(CPU, QUICK)
    work = Work(operations=1e11, bytes=0, calls=0)
    assert speed.expected_seconds(work, torch.float32, 'encoding') is None
    speed.yardsticks = yardsticks
    assert speed.expected_seconds(work, torch.float32, 'encoding') == 1 / speed.share('encoding')


def test_what_does_not_fit_into_the_memory_is_not_wrong():
    def check():
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')

    finding, = attempted('a large copy', check)
    assert 'does not fit' in str(finding) and finding.verdict == ''
