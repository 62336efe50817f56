"""Scores of a run on the validation images: of each epoch, and of the best one at the end."""

from pathlib import Path

import numpy as np
import torch

from captioning import distributed
from captioning.batch_targets import BatchTargets
from captioning.captioner import load_captioner
from captioning.features import split_features
from captioning.files import write_json
from captioning.losses import caption_losses
from captioning.scoring import metrics
from captioning.training.epoch import memory_explained
from captioning.training.phase import word_scores


@torch.no_grad()
def validate(run):
    """Loss on the validation captions, and scores of greedy captions of their images, to log.

    Keys: val_loss (nats per word) and those of LOGGED in captioning/scoring/metrics.py.
    """
    with memory_explained(f'while epoch {run.epoch + 1} was validated', run, 'val_images'):
        return distributed.on_first_rank(lambda: _validate(run))


def _validate(run):
    from captioning.scoring import score  # here: training must run without nltk and pycocoevalcap
    run.model.encoder.eval()
    run.model.decoder.eval()
    run.phase.update_validation()
    val_loss = validation_loss(run)
    scores = score(caption_validation(run, run.model.captioner(run.device)), run.references)
    return {'val_loss': val_loss, **{name: scores[name] for name in metrics.LOGGED}}


def validation_loss(run, batch_size=512):
    """Cross-entropy of the validation captions in nats per word."""
    val, model = run.val, run.model
    batches = [val.indices[start:start + batch_size]
               for start in range(0, len(val.indices), batch_size)]
    targets = BatchTargets(val, [(batch, np.arange(len(batch))) for batch in batches], groups=4)
    features = val.feature_batches([val.image_rows[batch] for batch in batches])
    nats = []
    for groups, features_of_batch in zip(targets, features, strict=True):
        embedded = model.encoder.embed(features_of_batch)
        for group in groups:
            scores = word_scores(model.decoder, embedded, group)
            nats.append(caption_losses(scores, group.targets)[0])
    total = torch.stack(nats).cpu().double().sum()    # not every GPU has float64
    return float(total) / val.words(val.indices)


def caption_validation(run, captioner, beam_size=1):
    """Captions of the validation images in the COCO results format; a beam of 1 is greedy."""
    val = run.val
    sentences = captioner.caption_features(val.features, run.settings.max_len, beam_size, val.rows)
    return [{'image_id': val.image_ids[row], 'caption': sentence}
            for row, sentence in zip(val.rows, sentences, strict=True)]


def final_scores(run):
    """Scores of the best epoch on the validation images, with intervals and diversity.

    Returns (results in the COCO format, scores); both are kept in the run's folder.
    """
    return distributed.on_first_rank(lambda: _final_scores(run))


def _final_scores(run):
    from captioning.scoring import diversity, score
    captioner = load_captioner(run.folder / 'best.pt', run.device, _model_file(run),
                               consensus=False)
    if run.settings.tune_epochs:    # the best epoch may be of another phase than the last
        features, _, _ = split_features(captioner.encoder, run.data, 'val',
                                        run.settings.val_images)
        run.val.features = torch.from_numpy(np.array(features)).to(run.device)
    results = caption_validation(run, captioner)
    scores = {**score(results, run.references, draws=1000), 'diversity': diversity(results)}
    write_json(run.folder / 'captions_val.json', results)
    write_json(run.folder / 'scores.json', scores)
    return results, scores


def _model_file(run):
    """The model file that was trained, or the run's copy of it where it was edited since."""
    file, copy = Path(run.model.classes.__file__), run.folder / 'model.py'
    is_same = file.is_file() and file.read_text('utf-8') == copy.read_text('utf-8')
    return file if is_same else copy
