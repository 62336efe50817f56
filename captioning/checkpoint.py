"""One file from which a model is rebuilt: weights, sizes, vocabulary, transform.

    save_checkpoint(path, model.state())
    state = read_checkpoint(path)

It holds plain tensors, lists, numbers and strings, so that `torch.load(weights_only=True)` reads it
and nothing in it is run. The frozen stages of the CNN are named there by their file and a hash of
their weights, not stored again.
"""

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import torch

from captioning.files import repository_path, write_aside

KEYS = {'encoder', 'decoder', 'vocab', 'transform'}
LARGEST_SIZE = 2 ** 17      # of a layer; a file that claims more would take all memory
LARGEST_IMAGE = 2048        # pixels on a side

_hashes = {}    # of weights, by checksum and size


# ---- Writing ----

def model_state(encoder, decoder, vocab, encoder_sizes, decoder_sizes, backbone_hash):
    """What rebuilds a model, as plain values.

    The sizes are the keyword arguments that made encoder and decoder. Of the backbone only the
    tuned stages are in it, and the hash of what it was before.
    """
    encoder_state = dict(encoder.state_dict())
    for name, stage in encoder.backbone.named_children():
        if not any(parameter.requires_grad for parameter in stage.parameters()):    # frozen
            for key in stage.state_dict():
                del encoder_state[f'backbone.{name}.{key}']
    words = {'words': list(vocab.word2idx), 'start_word': vocab.start_word,
             'end_word': vocab.end_word, 'unk_word': vocab.unk_word}
    return {
        'encoder': {'sizes': encoder_sizes, 'backbone_hash': backbone_hash, 'state': encoder_state},
        'decoder': {'sizes': decoder_sizes, 'state': decoder.state_dict()},
        'vocab': words,
        'transform': encoder.transform,
    }


def weights_hash(module):
    """First 16 digits of the SHA-256 over names and values: tells sets of weights apart.

    It is asked for again and again of the same weights, which a checksum recognizes in a tenth of
    the time.
    """
    weights = {name: tensor.detach().cpu().contiguous().numpy()
               for name, tensor in module.state_dict().items()}
    checksum = size = 0
    for name, values in weights.items():
        checksum = zlib.crc32(values, zlib.crc32(name.encode(), checksum))
        size += values.nbytes
    if (checksum, size) not in _hashes:
        digest = hashlib.sha256()
        for name, values in weights.items():
            digest.update(name.encode())
            digest.update(values)
        _hashes[checksum, size] = digest.hexdigest()[:16]
    return _hashes[checksum, size]


def save_checkpoint(path, state):
    """Write a checkpoint aside and rename it: a kill at any moment leaves the old or the new one.
    """
    content = io.BytesIO()    # given a file, PyTorch does not say that the disk is full
    torch.save(state, content)
    with write_aside(path) as aside:
        aside.write_bytes(content.getbuffer())


# ---- Reading ----

def read_checkpoint(path):
    """The dictionary in a checkpoint.

    Raises FileNotFoundError, or ValueError if it is none, damaged or holds code.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} not found. Train one: `make run`, '
                                'or run 2_Training.ipynb.')
    try:
        _check_archive(path)
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:    # a damaged or foreign file raises many kinds
        raise ValueError(f'{path} is not a checkpoint that can be read safely: '
                         f'{str(error)[:200]}') from None
    if not isinstance(state, dict) or not state.keys() >= KEYS:
        raise ValueError(
            f'{path} is not a checkpoint of this repository: no encoder, decoder, vocab, '
            'transform. A state dict of an old notebook is loaded by encoder.load_state_dict().')
    try:
        _check_content(state)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f'{path} is not a checkpoint of this repository: '
                         f'{type(error).__name__}: {error}') from None
    return state


def _check_archive(path):
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError('it is packed, and may be any size')    # PyTorch does not pack
        if damaged := archive.testzip():
            raise ValueError(f'it is damaged: the checksum of {damaged} differs')


def _check_content(state):
    """Raise where words, sizes or tensors are something else, or claim to be very large."""
    words, transform = state['vocab']['words'], state['transform']
    all_text = isinstance(words, list) and {*map(type, words)} == {str}
    if not all_text or len(set(words)) < len(words):
        raise ValueError('words: expected a list of different words')
    three_channels = all(len(transform[key]) == 3 for key in ('mean', 'std'))
    if not 0 < transform['size'] <= LARGEST_IMAGE or not three_channels:
        raise ValueError(f'transform: {str(transform)[:100]}')
    if not isinstance(state['encoder']['backbone_hash'], str):
        raise ValueError('backbone_hash: expected a text')
    vocab_size = state['decoder']['sizes']['vocab_size']
    if vocab_size != len(words):
        raise ValueError(f'{len(words)} words for a decoder of {vocab_size}')
    for part in (state['encoder'], state['decoder']):
        _check_part(part['sizes'], part['state'])


def _check_part(sizes, state):
    numbers = [value for value in sizes.values() if isinstance(value, int)]
    if any(abs(number) > LARGEST_SIZE for number in numbers):
        raise ValueError(f'sizes: {str(sizes)[:200]}')
    if any(tensor.nbytes > tensor.untyped_storage().nbytes() for tensor in state.values()):
        raise ValueError('state: expected tensors that hold what they show')


def is_tuned(state):
    """Does a checkpoint hold stages of the CNN that were tuned?"""
    return bool(tuned_stages(state))


def tuned_stages(state):
    """Names of the stages of the CNN that were tuned, whose weights a checkpoint holds -> a set."""
    return {key.split('.')[1] for key in state['encoder']['state'] if key.startswith('backbone.')}


# ---- Loading into a model ----

def load_weights(module, state, path, model_file):
    """Load the state of an encoder or decoder.

    Raises ValueError that names what differs. model_file: where the module's class was defined.
    """
    check_weights(module, state, path, model_file)
    module.load_state_dict(state, strict=False)    # the frozen stages are not in it


def check_weights(module, state, path, model_file):
    """Raise ValueError that names what a module lacks of a state, or has in another shape."""
    shapes, stored = _shapes(module.state_dict()), _shapes(state)
    differs = []
    for key in {**stored, **shapes}:
        there, here = stored.get(key, 'nothing'), shapes.get(key, 'nothing')
        is_frozen = key.startswith('backbone.') and key not in stored
        if there != here and not is_frozen:
            differs.append(f'{key}: {there} there, {here} here')
    if differs:
        more = f' and {len(differs) - 8} more' if len(differs) > 8 else ''
        raise ValueError(
            f'{path} does not fit {type(module).__name__} in {repository_path(model_file)} '
            f'({"; ".join(differs[:8])}{more}). The model.py of the run lies beside it: give it as '
            'model_file.')


def _shapes(state):
    return {key: list(value.shape) for key, value in state.items()}


def load_tuned(encoder, state, path, model_file):
    """Load the tuned stages of a checkpoint, and mark them as tuned: `model_state` keeps them."""
    tuned = {key: value for key, value in state['encoder']['state'].items()
             if key.startswith('backbone.')}
    for stage in tuned_stages(state):
        encoder.backbone.get_submodule(stage).requires_grad_(True)
    head = {key: value for key, value in encoder.state_dict().items()
            if not key.startswith('backbone.')}
    load_weights(encoder, {**head, **tuned}, path, model_file)
