"""Captions and features of the training and the validation images, ready for a run."""

from captioning import distributed
from captioning.captions import Captions
from captioning.features import split_features
from data_loader import CoCoDataset


def read_captions(settings, data, encoder):
    """-> Captions of 'train' and of 'val', with features of `encoder`, computed if not cached.

    The first process computes what is kept on disk, then the others read it.
    """
    def read():
        return _read_split(settings, data, encoder, 'train', None, settings.views), _read_split(
            settings, data, encoder, 'val', settings.val_images, views=1)

    return distributed.first_rank_first(read)


def _read_split(settings, data, encoder, split, limit, views):
    vocab = data.vocabulary(settings.vocab_threshold)
    dataset = CoCoDataset(None, split, settings.batch_size, vocab, data)
    features, unreadable, _ = split_features(encoder, data, split, limit)
    other_views = [split_features(encoder, data, split, limit, view)[0]
                   for view in range(1, views)]
    return Captions.of_split(dataset, features, unreadable, limit, other_views)
