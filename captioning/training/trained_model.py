"""What a run trains: encoder and decoder, with all that a checkpoint says of them."""

import copy
from dataclasses import asdict

import torch

from captioning.captioner import Captioner
from captioning.checkpoint import (
    is_tuned,
    load_tuned,
    load_weights,
    model_state,
    weights_hash,
)
from captioning.model_files import accepted, build_encoder, signature_defaults

NOT_COMPARED = {'encoder': {'weights'},     # the hash of the backbone tells more
                'decoder': {'dropout'}}     # it has no weights


class TrainedModel:
    """Encoder and decoder under training, with weights by the seed of the settings.

    classes: the module that defines them. start: a checkpoint, of which the stages of the CNN that
    it has tuned are taken, if any. encoder_sizes, decoder_sizes: the keyword arguments that made
    them. backbone_hash: of the CNN's weights before any tuning. ValueError where `start_with` is
    'cnn' and the checkpoint has tuned none, or another one.
    """

    def __init__(self, settings, classes, vocab, device, start=None):
        self.settings, self.classes, self.vocab = settings, classes, vocab
        self.defaults = {'encoder': signature_defaults(classes.EncoderCNN),
                         'decoder': signature_defaults(classes.DecoderRNN)}
        arguments = asdict(settings) | {
            'grid': needs_grid(settings), 'vocab_size': len(vocab), 'start_id': vocab.start_id,
            'end_id': vocab.end_id}
        self.encoder_sizes = accepted(classes.EncoderCNN, arguments)
        self.decoder_sizes = accepted(classes.DecoderRNN, arguments)
        torch.manual_seed(settings.seed)
        # In one layout from the start, whether or not photos are still to be encoded: that would
        # change it, and with it the order of sums.
        self.encoder = build_encoder(classes, self.encoder_sizes).to(
            device, memory_format=torch.channels_last)
        self.backbone_hash = weights_hash(self.encoder.backbone)
        if start and settings.start_with == 'cnn':
            self._check_cnn(start)
        if start and is_tuned(start):
            load_tuned(self.encoder, start, settings.start, classes.__file__)
        self.untuned = {}    # the CNN's weights before this run tunes it
        if settings.tune_epochs:
            self.untuned = copy.deepcopy(self.encoder.backbone.state_dict())
        # Seeded again: a change of the encoder does not change the decoder's first weights.
        torch.manual_seed(settings.seed)
        self.decoder = classes.DecoderRNN(**self.decoder_sizes).to(device)

    def state(self):
        """What rebuilds it, to be saved in a checkpoint."""
        return model_state(self.encoder, self.decoder, self.vocab, self.encoder_sizes,
                           self.decoder_sizes, self.backbone_hash)

    def load(self, state, path):
        """Load the weights of a checkpoint; ValueError says what does not fit."""
        self._check_fits(state, path)
        if self.untuned:    # undo a tuning that the checkpoint does not have
            self.encoder.backbone.load_state_dict(self.untuned)
        for module, part in ((self.encoder, 'encoder'), (self.decoder, 'decoder')):
            load_weights(module, state[part]['state'], path, self.classes.__file__)

    def captioner(self, device):
        return Captioner(self.encoder, self.decoder, self.vocab, self.encoder.transform, device)

    def first_tuned_stage(self):
        """Index of the first child of the CNN that is tuned, and all after it.

        ValueError where nothing would stay frozen.
        """
        with_weights = [index for index, stage in enumerate(self.encoder.backbone)
                        if any(True for _ in stage.parameters())]
        count = self.settings.tune_stages
        if count >= len(with_weights):
            raise ValueError(f'tune_stages={count}: {self.settings.backbone} has '
                             f'{len(with_weights)}, and the first stays frozen.')
        return with_weights[-count]

    def _check_fits(self, state, path):
        """Raise ValueError, both values shown, where a checkpoint has another encoder or words."""
        pairs = [*self._sizes_beside('encoder', state), *self._sizes_beside('decoder', state)]
        pairs.append(self._hashes_beside(state))
        words, words_here = state['vocab']['words'], list(self.vocab.word2idx)
        pairs.append(('words in the vocabulary', len(words), len(words_here)))
        for idx, (there, here) in enumerate(zip(words, words_here, strict=False)):
            if there != here:
                pairs.append((f'word {idx}', there, here))
                break
        self._raise_differences(pairs, path)

    def _check_cnn(self, start):
        """Raise ValueError where the CNN of a checkpoint is no use to start with."""
        if not is_tuned(start):
            raise ValueError(f"start_with='cnn': {self.settings.start} has tuned nothing of its "
                             'CNN, so that there is nothing to take. Leave both out.')
        self._raise_differences([self._hashes_beside(start)], self.settings.start)

    def _hashes_beside(self, state):
        there = state['encoder']['backbone_hash']
        return "hash of the backbone's weights", there, self.backbone_hash

    def _raise_differences(self, pairs, path):
        differs = [f'{name}: {there} there, {here} here'
                   for name, there, here in pairs if there != here]
        if differs:
            raise ValueError(f'{path} does not fit: {"; ".join(differs)}.')

    def _sizes_beside(self, part, state):
        """(name, in the checkpoint, here) of each size; one that is not recorded is the default."""
        sizes = {'encoder': self.encoder_sizes, 'decoder': self.decoder_sizes}[part]
        recorded = {**self.defaults[part], **state[part]['sizes']}
        return [(f'{part} {name}', recorded.get(name), sizes.get(name))
                for name in {**recorded, **sizes} if name not in NOT_COMPARED[part]]


def needs_grid(settings):
    """Does the decoder read a vector for each place of an image?"""
    return getattr(settings, 'image', None) == 'attention'
