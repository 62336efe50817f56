"""One file from which a captioner is rebuilt: weights, sizes, vocabulary, transform.

    captioner = load_captioner('runs/scenes/best.pt')
    captioner.caption(['photo.jpg'])        # ['a dog runs on the beach.']

A checkpoint holds plain tensors, lists, numbers and strings, so `torch.load(weights_only=True)` reads it and nothing in
it is run. The frozen backbone is named there by its file and a hash of its weights, not stored again.
"""

import pickle
from pathlib import Path

import torch

import model
from data_loader import ROOT, annotation_file, as_seen, load_image
from scripts import write_aside
from scripts.annotations import annotations_hash
from scripts.decoding import beam_search, greedy
from scripts.features import TRANSFORM, default_device, encode, fast_dtype, make_transform, weights_hash
from vocabulary import Vocabulary


class Captioner:
    """A trained model ready to caption: `.encoder`, `.decoder` (in eval mode), `.vocab`, `.transform`, `.device`."""

    def __init__(self, encoder, decoder, vocab, transform, device):
        self.encoder, self.decoder = encoder.to(device).eval(), decoder.to(device).eval()
        self.vocab, self.transform, self.device = vocab, make_transform(**transform), torch.device(device)

    def features(self, images):
        """Features (B, C) float32 of PIL images or paths; OSError names a photo that cannot be read."""
        images = [load_image(image) if isinstance(image, (str, Path)) else as_seen(image) for image in images]
        batch = torch.stack([self.transform(image) for image in images]).to(self.device)
        return encode(self.encoder.backbone.to(memory_format=torch.channels_last), batch, fast_dtype(self.device))

    @torch.no_grad()
    def caption_features(self, features, max_len=20, beam_size=1, batch_size=256):
        """Captions, a list of str, of features (N, C) as an array or tensor; a beam of 1 is greedy."""
        sentences = []
        for start in range(0, len(features), batch_size):
            batch = torch.asarray(features[start:start + batch_size], copy=True).to(self.device, torch.float32)
            embedded = self.encoder.embed(batch)                                                # (B, E)
            ids = beam_search(self.decoder, embedded, beam_size, max_len) if beam_size > 1 else greedy(
                self.decoder, embedded, max_len)
            sentences += map(self.vocab.decode, ids)
        return sentences

    def caption(self, images, max_len=20, beam_size=1):
        """Captions, a list of str, of PIL images or paths."""
        return self.caption_features(self.features(images), max_len, beam_size) if len(images) else []


def latest_checkpoint(cocoapi_loc=None):
    """Path of runs/NAME/best.pt of the run opened last, of those on the captions of `cocoapi_loc` if given."""
    found = [path for path in (ROOT / 'runs').glob('*/best.pt') if path.with_name('settings.json').exists()]
    found.sort(key=lambda path: path.with_name('settings.json').stat().st_mtime)    # touched when a run is opened
    if cocoapi_loc is not None:
        wanted = annotations_hash(annotation_file(cocoapi_loc, 'train'))[:16]
        found = [path for path in found if wanted in path.with_name('settings.json').read_text()]
    if not found:
        on = f' on {cocoapi_loc}' if cocoapi_loc else ''
        raise FileNotFoundError(f'no trained model in runs/{on}. Train one: `make run`, or run 2_Training.ipynb.')
    return found[-1]


def build_encoder(sizes):
    """EncoderCNN from its keyword arguments; a relative path of weights is one in the repository."""
    weights = sizes['weights']
    return model.EncoderCNN(**{**sizes, 'weights': weights_file(weights) or weights})


def weights_file(weights):
    """Path of a weights file, looked for in the repository, or None where `weights` is no file."""
    path = ROOT / (weights or '')
    return path if path.is_file() else None


def model_state(encoder, decoder, vocab, encoder_sizes, decoder_sizes):
    """What rebuilds a model, as plain values. The sizes are the keyword arguments that made encoder and decoder."""
    return {
        'encoder': {
            'sizes': encoder_sizes,
            'backbone_hash': weights_hash(encoder.backbone),
            'state': {key: value for key, value in encoder.state_dict().items() if not key.startswith('backbone.')},
        },
        'decoder': {'sizes': decoder_sizes, 'state': decoder.state_dict()},
        'vocab': {'words': list(vocab.word2idx), 'start_word': vocab.start_word, 'end_word': vocab.end_word,
                  'unk_word': vocab.unk_word},
        'transform': TRANSFORM,
    }


def save_checkpoint(path, state):
    """Write a checkpoint aside and rename it: a kill at any moment leaves the old one or the new one."""
    with write_aside(path) as aside:
        torch.save(state, aside)


def read_checkpoint(path):
    """The dictionary in a checkpoint. Raises FileNotFoundError, or ValueError if it is none or holds code."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} not found. Train one: `make run`, or run 2_Training.ipynb.')
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f'{path} is not a checkpoint that can be read safely: {str(error)[:200]}') from None
    if not isinstance(state, dict) or not {'encoder', 'decoder', 'vocab', 'transform'} <= state.keys():
        raise ValueError(f'{path} is not a checkpoint of this repository: no encoder, decoder, vocab, transform. '
                         'A state dict of an old notebook is loaded by encoder.load_state_dict().')
    return state


def _load_state(module, state, what, path):
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path}: its {what} does not fit today's model.py: {error}") from None
    missing = [key for key in missing if not key.startswith('backbone.')]
    if missing or unexpected:
        raise ValueError(f"{path}: its {what} does not fit today's model.py: lacks {missing}, has {unexpected}. "
                         'The model.py of the run lies beside the checkpoint.')


def load_captioner(path, device=None):
    """Rebuild the captioner in a checkpoint, on `device` (default: cuda, else mps, else cpu).

    Needs that file and the encoder weights that it names. FileNotFoundError and ValueError say what differs.
    """
    state = read_checkpoint(path)
    sizes = state['encoder']['sizes']
    try:
        encoder, decoder = build_encoder(sizes), model.DecoderRNN(**state['decoder']['sizes'])
    except TypeError as error:
        raise ValueError(f"{path} does not fit today's model.py: {error}. The run's own lies beside it.") from None
    found, expected = weights_hash(encoder.backbone), state['encoder']['backbone_hash']
    if found != expected:
        raise ValueError(f"{path} was trained on a backbone with hash {expected}, but {sizes['weights']} has {found}. "
                         'Its captions would be wrong: restore those weights.')
    _load_state(encoder, state['encoder']['state'], 'encoder', path)
    _load_state(decoder, state['decoder']['state'], 'decoder', path)
    return Captioner(encoder, decoder, Vocabulary.from_words(**state['vocab']), state['transform'],
                     device or default_device())
