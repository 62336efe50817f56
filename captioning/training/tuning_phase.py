"""Second phase, where it is asked for: the CNN's last stages are trained too, through photos."""

import torch

from captioning.devices import fast_dtype
from captioning.encoding import AugmentedPhotos, FrozenBackbone, load_batches, photo_batches
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
        frozen, tuned = backbone[:first], backbone[first:]
        tuned.requires_grad_(True)
        super().__init__(settings, model, train, val, ImageItems(train, settings.tune_batch_size),
                         rate=settings.tune_head_rate, tuned=tuned,
                         tuned_rate=settings.tune_learning_rate)
        self.frozen = FrozenBackbone(frozen, fast_dtype(self.device), images=len(train.rows))

    def inputs(self, batches):
        transform = self.model.encoder.transform
        photos = AugmentedPhotos(self.train.paths, transform, self.settings.tune_crop,
                                 [self.settings.seed, self.sampler.epoch])
        batch_size = self.settings.tune_batch_size
        loaded = load_batches(photos, batches, batch_size, transform, self.device)
        for _, images, _ in loaded:
            yield self.frozen.encode(images)

    def update_validation(self):
        """Features of the validation images as the encoder gives them now; 0 of unreadable ones."""
        encoder, val = self.model.encoder, self.val
        frozen = FrozenBackbone(encoder.backbone, fast_dtype(self.device))    # tuned since
        features = torch.zeros_like(val.features)
        for rows, images, _ in photo_batches(val.paths, val.rows, encoder.transform, self.device):
            features[rows] = frozen.encode(images).to(features)
        val.features = features
