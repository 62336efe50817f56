"""Train a captioner, or continue: `python -m scripts.train --name scenes`.

    torchrun --nproc-per-node 2 -m scripts.train --name scenes      # on several GPUs or machines

The settings, with their reasons: captioning/training/settings.py, and the arguments of model.py.
"""

from captioning import distributed
from captioning.caption_data import find_data
from captioning.comparison import format_runs, read_runs
from captioning.training import (
    final_scores,
    finish_epoch,
    open_run,
    train_one_epoch,
    validate,
)
from captioning.training.settings import read_arguments
from scripts import run_main


def main():
    settings, device = read_arguments(
        'Train a captioner, or continue the run of these settings.')
    device = distributed.connect(device)
    run = open_run(settings, find_data(settings.cocoapi_loc), device)
    while not run.finished:
        entry = finish_epoch(run, train_one_epoch(run), validate(run))
        print(' '.join(f'{key} {value}' for key, value in entry.items()), flush=True)
    final_scores(run)
    print(distributed.on_first_rank(lambda: format_runs(read_runs(like=run.folder))))
    distributed.disconnect()


if __name__ == '__main__':
    run_main(main)
