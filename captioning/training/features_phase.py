"""First phase: head and decoder learn from features of the frozen CNN, kept on disk."""

from captioning.training.phase import Phase
from captioning.training.step_graphs import StepGraphs, told_reason_against
from captioning.training.steps import CaptionItems, ImageItems, images_per_step


class FeaturesPhase(Phase):
    """Cross-entropy on every training caption, from cached features."""

    name = 'features'
    epochs_setting = 'epochs'
    batch_size_setting = 'batch_size'

    def __init__(self, settings, model, train, val, reader=None):
        has_grids = train.features.ndim == 3
        if settings.by_image or has_grids:
            items = ImageItems(train, images_per_step(train, settings.batch_size))
        else:
            items = CaptionItems(train, settings.batch_size)
        super().__init__(settings, model, train, val, items, rate=settings.learning_rate)
        if settings.cuda_graphs and not told_reason_against(self):
            self.graphs = StepGraphs(self, super().update)

    def batches(self, epoch, first_batch):
        if self.graphs is None:
            return super().batches(epoch, first_batch)
        return self.graphs.batches(epoch, first_batch)

    def update(self, batch):
        return super().update(batch) if self.graphs is None else self.graphs.update(batch)
