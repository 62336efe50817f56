"""One file from which a captioner is rebuilt: weights, sizes, vocabulary, transform.

    captioner = load_captioner()            # the one that ships; or load_captioner('runs/scenes/best.pt')
    captioner.caption(['photo.jpg'])        # ['a dog runs on the beach.']
    python -m scripts.checkpoint runs/NAME/best.pt --output mine/NAME.pt       # half the size, to keep or to give away

A checkpoint holds plain tensors, lists, numbers and strings, so `torch.load(weights_only=True)` reads it and nothing in
it is run. The frozen backbone is named there by its file and a hash of its weights, not stored again.
"""

import argparse
import importlib.util
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch

import model
from data_loader import ROOT, annotation_file, as_seen, load_image
from scripts import run_main, write_aside
from scripts.annotations import annotations_hash
from scripts.decoding import beam_search, greedy
from scripts.features import default_device, encode, fast_dtype, make_transform, weights_hash
from vocabulary import Vocabulary

SHIPPED = ROOT / 'models' / 'flickr8k_best.pt'


class Captioner:
    """A trained model ready to caption: `.encoder`, `.decoder` (in eval mode), `.vocab`, `.transform`, `.device`.

    `.dtype` is what it computes in, `fast_dtype(device)`; set it to torch.float32 to be exact.
    """

    def __init__(self, encoder, decoder, vocab, transform, device):
        self.encoder, self.decoder = encoder.to(device).eval(), decoder.to(device).eval()
        self.vocab, self.transform, self.device = vocab, make_transform(**transform), torch.device(device)
        self.dtype = fast_dtype(self.device)

    def features(self, images):
        """Features (B, C) or (B, P, C) float32 of PIL images or paths; OSError names a photo that cannot be read."""
        images = [load_image(image) if isinstance(image, (str, Path)) else as_seen(image) for image in images]
        batch = torch.stack([self.transform(image) for image in images]).to(self.device)
        return encode(self.encoder.backbone, batch, self.dtype)

    @torch.no_grad()
    def decode(self, features, method=greedy, rows=None, batch_size=256, **options):
        """What a method of scripts.decoding gives for features (N, ...), as an array or tensor -> list.

        rows: of these images only. options: the method's; `seeds` is one an image. The unknown word is forbidden.
        """
        found, rows = [], np.arange(len(features)) if rows is None else np.asarray(rows)
        options = {'forbidden': [self.vocab.unk_id], **options}
        for start in range(0, len(rows), batch_size):
            some = slice(start, start + batch_size)
            own = {**options, 'seeds': options['seeds'][some]} if options.get('seeds') is not None else options
            batch = torch.asarray(features[rows[some]], copy=True).to(self.device, torch.float32)
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                found += method(self.decoder, self.encoder.embed(batch), **own)                 # (B, E) or (B, P, E)
        return found

    def caption_features(self, features, max_len=20, beam_size=1, rows=None):
        """Captions, a list of str, of features (N, ...), or of some rows of them; a beam of 1 is greedy."""
        method, options = (beam_search, {'beam_size': beam_size}) if beam_size > 1 else (greedy, {})
        found = self.decode(features, method, rows, max_len=max_len, **options)
        return [self.vocab.decode(caption.ids) for caption in found]

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


def build_encoder(sizes, classes=model):
    """EncoderCNN from its keyword arguments; a relative path of weights is one in the repository."""
    weights = sizes['weights']
    return classes.EncoderCNN(**{**sizes, 'weights': weights_file(weights) or weights})


def weights_file(weights):
    """Path of a weights file, looked for in the repository, or None where `weights` is no file."""
    path = ROOT / (weights or '')
    return path if path.is_file() else None


def model_state(encoder, decoder, vocab, encoder_sizes, decoder_sizes, backbone_hash):
    """What rebuilds a model, as plain values: of the backbone only what is tuned, and the hash of what it was before.

    The sizes are the keyword arguments that made encoder and decoder.
    """
    frozen = {f'backbone.{name}' for stage in encoder.backbone.named_children() for name in _frozen(*stage)}
    return {
        'encoder': {
            'sizes': encoder_sizes,
            'backbone_hash': backbone_hash,
            'state': {key: value for key, value in encoder.state_dict().items() if key not in frozen},
        },
        'decoder': {'sizes': decoder_sizes, 'state': decoder.state_dict()},
        'vocab': {'words': list(vocab.word2idx), 'start_word': vocab.start_word, 'end_word': vocab.end_word,
                  'unk_word': vocab.unk_word},
        'transform': encoder.transform,
    }


def _frozen(name, stage):
    tuned = any(parameter.requires_grad for parameter in stage.parameters())
    return [] if tuned else [f'{name}.{key}' for key in stage.state_dict()]


def save_checkpoint(path, state):
    """Write a checkpoint aside and rename it: a kill at any moment leaves the old one or the new one."""
    written = io.BytesIO()    # given a file, PyTorch does not say that the disk is full
    torch.save(state, written)
    with write_aside(path) as aside:
        aside.write_bytes(written.getbuffer())


def read_checkpoint(path):
    """The dictionary in a checkpoint. Raises FileNotFoundError, or ValueError if it is none, damaged or holds code."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} not found. Train one: `make run`, or run 2_Training.ipynb.')
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError('it is packed, and may be any size')    # PyTorch does not pack
            if damaged := archive.testzip():
                raise ValueError(f'it is damaged: the checksum of {damaged} differs')
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:    # a damaged or foreign file raises many kinds
        raise ValueError(f'{path} is not a checkpoint that can be read safely: {str(error)[:200]}') from None
    if not isinstance(state, dict) or not {'encoder', 'decoder', 'vocab', 'transform'} <= state.keys():
        raise ValueError(f'{path} is not a checkpoint of this repository: no encoder, decoder, vocab, transform. '
                         'A state dict of an old notebook is loaded by encoder.load_state_dict().')
    try:
        _check_kinds(state)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f'{path} is not a checkpoint of this repository: {type(error).__name__}: {error}') from None
    return state


def _check_kinds(state):
    """Raise where what is to be lists, words, sizes and tensors is something else, or claims to be very large."""
    words, transform = state['vocab']['words'], state['transform']
    if {*map(type, words)} != {str} or len(set(words)) < len(words) or not isinstance(words, list):
        raise ValueError('words: expected a list of different words')
    if not 0 < transform['size'] <= 2048 or any(len(transform[key]) != 3 for key in ('mean', 'std')):
        raise ValueError(f'transform: {str(transform)[:100]}')
    if not isinstance(state['encoder']['backbone_hash'], str):
        raise ValueError('backbone_hash: expected a text')
    if state['decoder']['sizes']['vocab_size'] != len(words):
        raise ValueError(f"{len(words)} words for a decoder of {state['decoder']['sizes']['vocab_size']}")
    for part in (state['encoder'], state['decoder']):
        if any(isinstance(value, int) and abs(value) > 2 ** 17 for value in part['sizes'].values()):
            raise ValueError(f'sizes: {str(part["sizes"])[:200]}')
        if any(value.nbytes > value.untyped_storage().nbytes() for value in part['state'].values()):
            raise ValueError('state: expected tensors that hold what they show')


def check_fits(state, sizes, vocab, backbone_hash, path):
    """Raise ValueError, both values shown, where a checkpoint has another encoder, other sizes or other words."""
    pairs = []
    for part, own in zip(('encoder', 'decoder'), sizes, strict=True):
        found = state[part]['sizes']
        pairs += [(f'{part} {key}', found.get(key), own.get(key)) for key in {**found, **own}]
    pairs += [("hash of the backbone's weights", state['encoder']['backbone_hash'], backbone_hash)]
    words, own = state['vocab']['words'], list(vocab.word2idx)
    odd = next((i for i, pair in enumerate(zip(words, own, strict=False)) if pair[0] != pair[1]), None)
    pairs += [('words in the vocabulary', len(words), len(own))]
    pairs += [(f'word {odd}', words[odd], own[odd])] if odd is not None else []
    differs = [f'{what}: {found} there, {expected} here' for what, found, expected in pairs
               if found != expected and what not in ('encoder weights', 'decoder dropout')]    # the hash tells more
    if differs:
        raise ValueError(f'{path} does not fit: {"; ".join(differs)}.')


def check_weights(module, state, path, classes=model):
    """Raise ValueError that names what an encoder or decoder lacks of a state, or has in another shape."""
    own = {key: list(value.shape) for key, value in module.state_dict().items()}
    found = {key: list(value.shape) for key, value in state.items()}
    differs = [f'{key}: {found.get(key, "nothing")} there, {own.get(key, "nothing")} here' for key in {**found, **own}
               if found.get(key) != own.get(key) and not (key.startswith('backbone.') and key not in found)]
    if differs:
        more = f' and {len(differs) - 8} more' if len(differs) > 8 else ''
        raise ValueError(f'{path} does not fit {type(module).__name__} in {os.path.relpath(classes.__file__)} '
                         f'({"; ".join(differs[:8])}{more}). The model.py of the run lies beside it: give it as '
                         'model_file.')


def load_weights(module, state, path, classes=model):
    """Load the state of an encoder or decoder, checked by `check_weights`."""
    check_weights(module, state, path, classes)
    module.load_state_dict(state, strict=False)


def _check_decoder(state, path, classes):
    """`check_weights` of a decoder that takes no memory: its sizes may be anything."""
    try:
        with torch.device('meta'):
            decoder = classes.DecoderRNN(**state['sizes'])
    except (NotImplementedError, RuntimeError):    # an edited one that cannot be built so
        return
    check_weights(decoder, state['state'], path, classes)


def load_tuned(encoder, state, path):
    """Load the tuned stages of a checkpoint, and mark them as tuned, so that `model_state` keeps them."""
    tuned = {key: value for key, value in state['encoder']['state'].items() if key.startswith('backbone.')}
    for name in {key.split('.')[1] for key in tuned}:
        encoder.backbone.get_submodule(name).requires_grad_(True)
    heads = {key: value for key, value in encoder.state_dict().items() if not key.startswith('backbone.')}
    load_weights(encoder, {**heads, **tuned}, path)


def load_model_file(path):
    """The module in a file such as runs/NAME/model.py. This runs the file: give one that you trust."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'model_file {path} not found. Expected the model.py of a run.')
    spec = importlib.util.spec_from_file_location(f'model_of_{Path(path).resolve().parent.name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_captioner(path=SHIPPED, device=None, model_file=None):
    """Rebuild the captioner in a checkpoint (default: the best that ships), on `device` (default: cuda, mps or cpu).

    Needs that file and the encoder weights that it names. model_file: take the classes of that model.py (it is run)
    instead of today's; those in models/ come with theirs. FileNotFoundError and ValueError say what differs.
    """
    state = read_checkpoint(path)
    if model_file is None and Path(path).resolve().parent == SHIPPED.parent:
        model_file = SHIPPED.with_name('model.py')
    classes = load_model_file(model_file) if model_file else model
    sizes = state['encoder']['sizes']
    try:
        _check_decoder(state['decoder'], path, classes)
        encoder, decoder = build_encoder(sizes, classes), classes.DecoderRNN(**state['decoder']['sizes'])
    except (TypeError, RuntimeError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f'{path} does not fit {os.path.relpath(classes.__file__)}: {error}. The model.py of the run '
                         'lies beside it: give it as model_file.') from None
    found, expected = weights_hash(encoder.backbone), state['encoder']['backbone_hash']
    if found != expected:
        raise ValueError(f"{path} was trained on a backbone with hash {expected}, but {sizes['weights']} has {found}. "
                         'Its captions would be wrong: restore those weights.')
    encoder.transform = state['transform']    # a model.py of before had none
    load_weights(encoder, state['encoder']['state'], path, classes)
    load_weights(decoder, state['decoder']['state'], path, classes)
    return Captioner(encoder, decoder, Vocabulary.from_words(**state['vocab']), state['transform'],
                     device or default_device())


def export(path, output, weights=None):
    """Write a checkpoint with its weights in float16, and beside it the model.py of its run.

    Loaded again the weights are float32, rounded. weights: where the encoder's file is from now on.
    """
    state = read_checkpoint(path)
    state['encoder']['sizes']['weights'] = weights or state['encoder']['sizes']['weights']
    for part in (state['encoder'], state['decoder']):
        part['state'] = {key: value.half() if value.is_floating_point() else value
                         for key, value in part['state'].items()}
    if 'settings' in state:
        state['settings'] = {**state['settings'], 'cocoapi_loc': None}    # a path of this machine
    save_checkpoint(output, state)
    source = Path(path).with_name('model.py')
    shutil.copyfile(source if source.exists() else model.__file__, Path(output).with_name('model.py'))


def main():
    parser = argparse.ArgumentParser(description='Write a checkpoint in half the size, and the model.py of its run.')
    parser.add_argument('checkpoint', help='such as runs/NAME/best.pt')
    parser.add_argument('--output', required=True, help='file to write; model.py is written beside it')
    args = parser.parse_args()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    export(args.checkpoint, args.output)
    print(f'{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    run_main(main)
