"""Training: settings, a run and its epochs, and the phases that it goes through.

    from captioning.training import (encode_images, final_scores, finish_epoch, make_settings,
                                     open_run, train_one_epoch, validate)
    run = open_run(make_settings(name='scenes'), data)      # or continues it
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    results, scores = final_scores(run)
"""

from captioning.training.epoch import train_one_epoch
from captioning.training.run import encode_images, finish_epoch, open_run
from captioning.training.settings import make_settings
from captioning.training.validation import final_scores, validate

__all__ = ['encode_images', 'final_scores', 'finish_epoch', 'make_settings', 'open_run',
           'train_one_epoch', 'validate']
