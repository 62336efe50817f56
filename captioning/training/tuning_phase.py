"""Second phase, where it is asked for: the CNN's last stages are trained too, through photos."""

import torch
from torch.utils.data import DataLoader

from captioning.devices import fast_dtype, loading_workers
from captioning.encoding import AugmentedPhotos, encode, photo_batches
from captioning.training.phase import Phase
from captioning.training.steps import ImageItems


class TuningPhase(Phase):
    """Photos, changed at random, go through the frozen stages; what these give is trained on."""

    name = 'tune'
    epochs_setting = 'tune_epochs'
    batch_size_setting = 'tune_batch_size'

    def __init__(self, settings, model, train, val, reader=None):
        backbone = model.encoder.backbone
        first = model.first_tuned_stage()
        self.frozen, tuned = backbone[:first], backbone[first:]
        tuned.requires_grad_(True)
        super().__init__(settings, model, train, val, ImageItems(train, settings.tune_batch_size),
                         rate=settings.tune_head_rate, tuned=tuned,
                         tuned_rate=settings.tune_learning_rate)

    def inputs(self):
        transform, dtype = self.model.encoder.transform, fast_dtype(self.device)
        photos = AugmentedPhotos(self.train.paths, transform, self.settings.tune_crop,
                                 [self.settings.seed, self.sampler.epoch])
        loader = DataLoader(photos, batch_sampler=self.sampler,
                            num_workers=loading_workers(self.device))
        for rows, images in loader:
            yield rows.numpy(), encode(self.frozen, images.to(self.device), dtype)

    def update_validation(self):
        """Features of the validation images as the encoder gives them now; 0 of unreadable ones."""
        encoder, val = self.model.encoder, self.val
        features = torch.zeros_like(val.features)
        for rows, images, _ in photo_batches(val.paths, val.rows, encoder.transform, self.device):
            encoded = encode(encoder.backbone, images, fast_dtype(self.device))
            features[rows] = encoded.to(features)
        val.features = features
