"""Captions and features of the training and the validation images, ready for a run.

    reader = CaptionReader(data, vocab, views=1, val_images=5000)
    train, val = reader.read(encoder, device)
"""

from captioning import distributed
from captioning.captions import Captions
from captioning.features import split_features
from data_loader import CoCoDataset


class CaptionReader:
    """Reads what a run trains on, for an encoder: once, or again when it has been tuned.

    data: a CaptionData. views: of each training image, see augmentations.py. val_images: how many
    of the validation images are used, the first ones.
    """

    def __init__(self, data, vocab, views, val_images):
        self.data, self.vocab = data, vocab
        self.views = {'train': views, 'val': 1}
        self.limits = {'train': None, 'val': val_images}

    def read(self, encoder, device):
        """-> Captions of 'train' and of 'val' on a device, with features of the encoder.

        Features that are not cached are computed: by the first process, then the others read them.
        """
        def read():
            return [self._read_split(split, encoder) for split in ('train', 'val')]

        train, val = distributed.first_rank_first(read)
        return train.to(device), val.to(device)

    def _read_split(self, split, encoder):
        limit = self.limits[split]
        dataset = CoCoDataset(None, split, 1, self.vocab, self.data)
        features, unreadable, _ = split_features(encoder, self.data, split, limit)
        other_views = [split_features(encoder, self.data, split, limit, view)[0]
                       for view in range(1, self.views[split])]
        return Captions.of_split(dataset, features, unreadable, limit, other_views)
