"""A trained model that captions photos.

    captioner = load_captioner()            # the one that ships; or 'runs/scenes/best.pt'
    captioner.caption(['photo.jpg'])        # ['a dog runs on the beach.']
    seen = captioner.see(batch)             # of images as captioner.transform makes them
    captioner.describe(seen, beam_size=5)   # captions with their probabilities and names

Axes: N images, C channels, P places, E embedding.
"""

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from captioning import files
from captioning.beam_search import length_normalized
from captioning.checkpoint import (
    check_weights,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    tuned_stages,
    weights_hash,
)
from captioning.consensus import Consensus
from captioning.decoding import beams, greedy
from captioning.devices import (
    computed_in,
    decoding_batch,
    default_device,
    fast_dtype,
    moved,
    placed,
    use,
)
from captioning.encoding import FrozenBackbone
from captioning.gpu_layers import recurrent_out_of_autocast
from captioning.model_files import build_encoder, load_model_file, recorded_sources
from captioning.naming import Description, Naming, Seen
from captioning.photos import as_seen, load_image
from captioning.recognition import SharedEncoder, recognizer_for
from captioning.recognition.recognizer import BACKBONE_HASH
from captioning.recognition.untuned import pooled_rows
from captioning.transforms import least_decoded, make_transform
from vocabulary import Vocabulary

SHIPPED = files.ROOT / 'models' / 'flickr8k_best.pt'
ONE_PER_IMAGE = ('seeds', 'required', 'probabilities')
CONSENSUS = '.consensus.pt'    # in the place of a checkpoint's suffix, beside it


class Captioner:
    """A trained model ready to caption.

    `.encoder` and `.decoder` (in eval mode), `.vocab`, `.transform`, `.device`, and `.dtype`, which
    it computes in: fast_dtype(device); set it to torch.float32 to be exact.

    Of the CNN before any tuning, for recognizers: `.backbone_hash`, of its weights, None if not
    known; `.untuned`, {name: stage} of the stages that were tuned since, as they were. `.naming`: a
    Naming, where captions are to name what a recognizer sees, or None. `.consensus`: a Consensus,
    which helps to choose among several captions, or None.
    """

    def __init__(self, encoder, decoder, vocab, transform, device, backbone_hash=None, untuned=()):
        self.encoder = placed(encoder, device).eval()
        self.decoder = recurrent_out_of_autocast(placed(decoder, device).eval())
        self.vocab, self.transform = vocab, make_transform(**transform)
        self.device = torch.device(device)
        self.dtype = fast_dtype(self.device)
        self._frozen = FrozenBackbone(self.encoder.backbone, self.dtype)
        self.backbone_hash = backbone_hash
        self.untuned = {name: stage.to(device).eval() for name, stage in dict(untuned).items()}
        self.naming, self.consensus, self._shared_encoder = None, None, None

    @property
    def encoder_hash(self):
        """Tells encoders apart, also by how they were tuned; the same when weights have been kept
        in float16."""
        stages = dict(self.encoder.backbone.named_children())
        tuned = nn.ModuleDict({name: stages[name] for name in self.untuned})
        hashes = [str(self.backbone_hash)]
        if self.untuned:
            hashes.append(weights_hash(copy.deepcopy(tuned).half()))
        return '-'.join(hashes)

    # ---- From images to features ----

    def features(self, images):
        """Features (N, C) or (N, P, C) float32 of PIL images or paths.

        OSError names a photo that cannot be read.
        """
        return self.encode(self.batch(images))

    def batch(self, images):
        """PIL images or paths -> (N, 3, S, S) on the device. OSError as in `features`."""
        images = [self.open(image) if isinstance(image, (str, Path)) else as_seen(image)
                  for image in images]
        return moved(torch.stack([self.transform(image) for image in images]), self.device)

    def open(self, path):
        """A photo as a PIL image with as many pixels as the encoder can use. OSError names it."""
        return load_image(path, least_decoded(self.encoder.transform['size']))

    def encode(self, images):
        """Features (N, C) or (N, P, C) float32 of images (N, 3, S, S) that are on the device.

        images: as `transform` makes them.
        """
        if self._frozen.dtype != self.dtype:
            self._frozen = FrozenBackbone(self.encoder.backbone, self.dtype)
        return self._frozen.encode(images)

    def see(self, images):
        """Images (N, 3, S, S) on the device -> Seen, which `describe` takes."""
        if self.naming is None:
            return Seen(self.encode(images))
        if self._shared_encoder is None:
            self._shared_encoder = SharedEncoder(self)
        features, untuned = self._shared_encoder.encode(images)
        return Seen(features, self.naming.recognizer.probabilities(untuned))

    # ---- From features to captions ----

    @torch.no_grad()
    def decode(self, features, method=greedy, rows=None, batch_size=None, **options):
        """What a method of captioning.decoding gives for features (N, ...) -> list.

        features: an array or tensor; rows: of these images only, batch by batch, so that an array
        on disk is never read at once. options: the method's; those in ONE_PER_IMAGE have an entry
        for each row. The unknown word is forbidden.
        """
        captions = []
        batch_size = batch_size or decoding_batch(self.device, options.get('beam_size', 1))
        rows = np.arange(len(features)) if rows is None else np.asarray(rows)
        options = {'forbidden': [self.vocab.unk_id], **options}
        of_images = {name: options.pop(name) for name in ONE_PER_IMAGE if name in options}
        for start in range(0, len(rows), batch_size):
            chosen = slice(start, start + batch_size)
            options |= {name: values[chosen] for name, values in of_images.items()
                        if values is not None}
            batch = torch.asarray(features[rows[chosen]], copy=True)
            batch = moved(batch, self.device).float()
            with computed_in(self.dtype, self.device):
                embedded = self.encoder.embed(batch)                    # (B, E) or (B, P, E)
                captions += method(self.decoder, embedded, **options)
        return captions

    def describe(self, seen, beam_size=1, max_len=20, count=1, rows=None):
        """Descriptions of Seen images, or of these rows -> for each a list of 1 to `count`.

        The best comes first; a beam of 1 is greedy. What a consensus adds is not part of their
        log-probabilities.
        """
        beam_size = max(beam_size, count)
        if self.naming and seen.probabilities is not None:
            return self.naming.describe(seen, beam_size, max_len, count, rows)
        if beam_size == 1:
            lists = [[one] for one in self.decode(seen.features, greedy, rows, max_len=max_len)]
        else:
            lists = self.decode(seen.features, beams, rows, beam_size=beam_size, max_len=max_len)
        lists = [[Description(self.vocab.decode(one.ids), one) for one in captions]
                 for captions in lists]
        supports = self.support(seen, [[one.text for one in each] for each in lists], rows)
        return [self._best_first(*of_image)[:count]
                for of_image in zip(lists, supports, strict=True)]

    def support(self, seen, texts, rows=None):
        """What the consensus adds to the scores of captions -> for each image an array.

        texts: for each of the Seen images, or of these rows, a list of captions.
        """
        if self.consensus is None:
            return [np.zeros(len(captions)) for captions in texts]
        return self.consensus.support(pooled_rows(seen.features, rows), texts,
                                      self._recognized(seen.probabilities, rows))

    def _recognized(self, probabilities, rows):
        """Words and their probabilities (N, W) of images, or None where nothing is recognized."""
        if not self.naming or probabilities is None:
            return None
        words = [word.word for word in self.naming.recognizer.words]
        return words, probabilities if rows is None else probabilities[rows]

    def _best_first(self, descriptions, support):
        """Descriptions of an image, sorted: the ended ones first, these by their scores."""
        if not support.any():    # beam search has sorted them
            return descriptions

        def key(number):
            ids, log_probs = descriptions[number].caption
            likely = length_normalized(sum(log_probs), len(log_probs))
            return ids[-1] == self.decoder.end_id, likely + support[number]

        return [descriptions[number]
                for number in sorted(range(len(descriptions)), key=key, reverse=True)]

    def caption_features(self, features, max_len=20, beam_size=1, rows=None):
        """Captions, a list of str, of features (N, ...), or of these rows; a beam of 1 is greedy.

        Nothing is named: for that `describe` takes what `see` gives.
        """
        return _texts(self.describe(Seen(features), beam_size, max_len, rows=rows))

    def caption(self, images, max_len=20, beam_size=1):
        """Captions, a list of str, of PIL images or paths."""
        if not len(images):
            return []
        return _texts(self.describe(self.see(self.batch(images)), beam_size, max_len))


def _texts(lists):
    return [best.text for best, *_ in lists]


# ---- Loading ----

def load_captioner(path=SHIPPED, device=None, model_file=None, names=None, consensus=None):
    """Rebuild the captioner in a checkpoint.

    path: default: the best that ships. device: default: the first that works. model_file: take the
    classes of that file (it is run) instead of model.py; the shipped checkpoints come with theirs.
    names: name what ImageNet's classifier sees; default: the shipped checkpoints do. consensus:
    choose among several captions by what people would say, as NAME.consensus.pt beside the
    checkpoint NAME.pt knows it (scripts/consensus.py makes it); default: where that file is.
    Needs that file and the encoder weights that it names. FileNotFoundError and ValueError say what
    differs.
    """
    state = read_checkpoint(path)
    ships = Path(path).resolve().parent == SHIPPED.parent
    if model_file is None and ships:
        model_file = model_file_beside(path)
    classes = load_model_file(model_file)
    encoder, decoder = _build(state, path, classes)
    _check_backbone(encoder, state, path)
    untuned = {name: copy.deepcopy(stage) for name, stage in encoder.backbone.named_children()
               if name in tuned_stages(state)}
    encoder.transform = state['transform']    # a model.py of before had none
    for module, part in ((encoder, 'encoder'), (decoder, 'decoder')):
        load_weights(module, state[part]['state'], path, classes.__file__)
    vocab = Vocabulary.from_words(**state['vocab'])
    device = use(device or default_device())
    captioner = Captioner(encoder, decoder, vocab, state['transform'], device,
                          state['encoder']['backbone_hash'], untuned)
    if names is None:
        names = ships and captioner.backbone_hash == BACKBONE_HASH
    if names:
        name_things(captioner)
    file = Path(path).with_suffix(CONSENSUS)
    if file.exists() if consensus is None else consensus:
        ask_consensus(captioner, file)
    return captioner


def name_things(captioner):
    """Let a captioner name what ImageNet's classifier sees. ValueError tells why it cannot."""
    recognizer, reason = recognizer_for(captioner)
    if recognizer is None:
        raise ValueError(reason)
    captioner.naming = Naming(captioner, recognizer)


def ask_consensus(captioner, path):
    """Let a captioner choose by the Consensus in a file. FileNotFoundError and ValueError tell why
    it cannot.
    """
    consensus = Consensus.load(path)
    if consensus.encoder_hash != captioner.encoder_hash:
        raise ValueError(
            f'{files.repository_path(path)} belongs to an encoder with hash '
            f'{consensus.encoder_hash}, that of this captioner has {captioner.encoder_hash}. Make '
            'it again: python -m scripts.consensus CHECKPOINT')
    captioner.consensus = consensus


def _build(state, path, classes):
    try:
        _check_decoder(state['decoder'], path, classes)
        encoder = build_encoder(classes, state['encoder']['sizes'])
        return encoder, classes.DecoderRNN(**state['decoder']['sizes'])
    except (TypeError, RuntimeError, ValueError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(
            f'{path} does not fit {files.repository_path(classes.__file__)}: {error}. The model.py '
            'of the run lies beside it: give it as model_file.') from None


def _check_decoder(part, path, classes):
    """`check_weights` of a decoder that takes no memory: its sizes may be anything."""
    try:
        with torch.device('meta'):
            decoder = classes.DecoderRNN(**part['sizes'])
    except (NotImplementedError, RuntimeError):    # an edited one that cannot be built so
        return
    check_weights(decoder, part['state'], path, classes.__file__)


def _check_backbone(encoder, state, path):
    actual, expected = weights_hash(encoder.backbone), state['encoder']['backbone_hash']
    if actual != expected:
        weights = state['encoder']['sizes']['weights']
        raise ValueError(
            f'{path} was trained on a backbone with hash {expected}, but {weights} has {actual}. '
            'Its captions would be wrong: restore those weights.')


# ---- Giving away ----

def export(path, output, weights=None):
    """Write a checkpoint with its weights in float16, and beside it the model file of its run.

    Loaded again the weights are float32, rounded. A consensus goes with it. weights: where the
    encoder's file is from now on. Returns the paths of what it wrote. FileExistsError where a model
    file would replace another one.
    """
    state, output = read_checkpoint(path), Path(output)
    sources = _sources_beside(output, recorded_sources(model_file_beside(path)
                                                       or load_model_file().__file__))
    sizes = state['encoder']['sizes']
    sizes['weights'] = weights or sizes['weights']
    for part in (state['encoder'], state['decoder']):
        part['state'] = {key: value.half() if value.is_floating_point() else value
                         for key, value in part['state'].items()}
    if 'settings' in state:
        state['settings'] = without_places(state['settings'])
    save_checkpoint(output, state)
    for file, text in sources.items():
        with files.write_aside(file) as aside:
            aside.write_text(text, 'utf-8')
    written = [output, *sources]
    consensus = Path(path).with_suffix(CONSENSUS)
    if consensus.is_file() and Path(path).resolve() != output.resolve():
        with files.write_aside(output.with_suffix(CONSENSUS)) as aside:
            shutil.copyfile(consensus, aside)
        written.append(output.with_suffix(CONSENSUS))
    return written


def without_places(settings):
    """Settings, a dict, without what tells where things lie on this machine."""
    cleaned = {name: None if name in ('cocoapi_loc', 'model_file') else value
               for name, value in settings.items()}
    for name in ('start', 'weights'):
        if os.path.isabs(cleaned.get(name) or ''):
            cleaned[name] = Path(cleaned[name]).name
    return cleaned


def _sources_beside(output, sources):
    """Where the model file of a checkpoint NAME.pt and what it imports are written -> {path: text}.

    sources: as `recorded_sources` gives them. The model file is model.py again; it is NAME.py where
    that is there already, where it imports others, which are then in `imports`, or where another
    model.py lies there.
    """
    main, *imported = sources
    place, named = output.with_name(main), output.with_suffix('.py')
    if imported or named.exists() or not _may_hold(place, sources[main]):
        place = named
    texts = {place: sources[main], **{output.parent / name: sources[name] for name in imported}}
    for file, text in texts.items():
        written_before = file == named != output.with_name('model.py') and output.exists()
        if not written_before and not _may_hold(file, text):
            raise FileExistsError(f'{file} is there and belongs to another model: write to another '
                                  'folder.')
    return texts


def _may_hold(file, text):
    """Whether a file is not there yet, or has this text."""
    return not file.exists() or file.is_file() and file.read_text('utf-8', 'replace') == text


def model_file_beside(checkpoint):
    """The model file that lies beside a checkpoint NAME.pt: NAME.py, model.py, or None."""
    candidates = Path(checkpoint).with_suffix('.py'), Path(checkpoint).with_name('model.py')
    return next((file for file in candidates if file.is_file()), None)
