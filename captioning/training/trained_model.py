"""What a run trains: encoder and decoder, with all that a checkpoint says of them."""

from dataclasses import asdict, dataclass

import torch
from torch import nn

from captioning.captioner import Captioner, build_encoder
from captioning.checkpoint import is_tuned, load_weights, model_state
from captioning.model_files import accepted, signature_defaults
from vocabulary import Vocabulary

NOT_COMPARED = {'encoder': {'weights'},     # the hash of the backbone tells more
                'decoder': {'dropout'}}     # it has no weights


@dataclass
class TrainedModel:
    """Encoder and decoder under training.

    classes: the module that defines them. encoder_sizes, decoder_sizes: the keyword arguments that
    made them. backbone_hash: of the CNN's weights before any tuning.
    """

    classes: object
    encoder: nn.Module
    decoder: nn.Module
    vocab: Vocabulary
    encoder_sizes: dict
    decoder_sizes: dict
    backbone_hash: str

    def state(self):
        """What rebuilds it, to be saved in a checkpoint."""
        return model_state(self.encoder, self.decoder, self.vocab, self.encoder_sizes,
                           self.decoder_sizes, self.backbone_hash)

    def load(self, state, path):
        """Load the weights of a checkpoint; ValueError says what does not fit."""
        self._check_fits(state, path)
        if not is_tuned(state) and self._has_tuned_stages():    # tuning did not help: undo it
            original = build_encoder(self.classes, self.encoder_sizes).backbone
            self.encoder.backbone.load_state_dict(original.state_dict())
        for module, part in ((self.encoder, 'encoder'), (self.decoder, 'decoder')):
            load_weights(module, state[part]['state'], path, self.classes.__file__)

    def captioner(self, device):
        return Captioner(self.encoder, self.decoder, self.vocab, self.encoder.transform, device)

    def _has_tuned_stages(self):
        return any(parameter.requires_grad for parameter in self.encoder.backbone.parameters())

    def _check_fits(self, state, path):
        """Raise ValueError, both values shown, where a checkpoint has another encoder or words."""
        pairs = [*self._sizes_beside('encoder', state), *self._sizes_beside('decoder', state)]
        pairs.append(("hash of the backbone's weights", state['encoder']['backbone_hash'],
                      self.backbone_hash))
        words, words_here = state['vocab']['words'], list(self.vocab.word2idx)
        pairs.append(('words in the vocabulary', len(words), len(words_here)))
        pairs += [(f'word {idx}', there, here)
                  for idx, (there, here) in enumerate(zip(words, words_here, strict=False))
                  if there != here][:1]
        differs = [f'{name}: {there} there, {here} here'
                   for name, there, here in pairs if there != here]
        if differs:
            raise ValueError(f'{path} does not fit: {"; ".join(differs)}.')

    def _sizes_beside(self, part, state):
        """(name, in the checkpoint, here) of each size; one that is not recorded is the default."""
        kind, sizes = {'encoder': (self.classes.EncoderCNN, self.encoder_sizes),
                       'decoder': (self.classes.DecoderRNN, self.decoder_sizes)}[part]
        defaults = signature_defaults(kind)
        recorded = {**defaults, **state[part]['sizes']}
        sizes = {**defaults, **sizes}
        return [(f'{part} {name}', recorded.get(name), sizes.get(name))
                for name in {**recorded, **sizes} if name not in NOT_COMPARED[part]]


def needs_grid(settings):
    """Does the decoder read a vector for each place of an image?"""
    return getattr(settings, 'image', None) == 'attention'


def make_encoder(settings, classes):
    """-> (encoder with weights by the seed, its keyword arguments)"""
    torch.manual_seed(settings.seed)
    values = {**asdict(settings), 'grid': needs_grid(settings)}
    sizes = accepted(classes.EncoderCNN, values)
    return build_encoder(classes, sizes), sizes


def make_model(settings, classes, encoder, encoder_sizes, backbone_hash, vocab, device):
    """-> TrainedModel, its decoder with weights by the seed."""
    # Seeded again: how many random numbers were drawn depends on what was in the cache.
    torch.manual_seed(settings.seed)
    values = {**asdict(settings), 'vocab_size': len(vocab), 'start_id': vocab.start_id,
              'end_id': vocab.end_id}
    sizes = accepted(classes.DecoderRNN, values)
    decoder = classes.DecoderRNN(**sizes).to(device)
    return TrainedModel(classes, encoder, decoder, vocab, encoder_sizes, sizes, backbone_hash)

