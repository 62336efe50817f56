"""Caption photos with the ONNX files beside this one: needs onnxruntime, numpy and Pillow alone.

    python caption.py photo.jpg other.png --beam-size 5

`python -m scripts.checkpoint FILE --onnx FOLDER` writes those files, with a copy of this one as
caption.py. Axes: K captions in the beam, T ids so far, V vocabulary, S side of an image in pixels.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from PIL import Image, ImageOps

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')    # not EPS: Pillow has Ghostscript run it
GREY_16_BIT = ('I', 'I;16', 'I;16B', 'I;16L')
LENGTH_POWER = 0.7    # a plain sum of log-probabilities prefers short captions


class Captioner:
    """The model in a folder. threads: that compute; 0: all cores."""

    def __init__(self, folder=Path(__file__).parent, threads=0):
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self.encoder, self.start, self.step = (
            InferenceSession(Path(folder) / name, options, providers=['CPUExecutionProvider'])
            for name in ('encoder.onnx', 'start.onnx', 'step.onnx'))
        self.config = json.loads((Path(folder) / 'captioner.json').read_text(encoding='utf-8'))

    def caption(self, path, beam_size=5, max_len=20):
        """The best caption that a beam of `beam_size` comes to, a str; a beam of 1 is greedy.

        max_len: the most ids that it has, those of start and end included.
        """
        return self.text(self.search(self.features(path), beam_size, max_len))

    # ---- From a photo to features ----

    def features(self, path):
        return self.encoder.run(None, {'images': self.image(path)})[0]

    def image(self, path):
        """A photo as a person sees it, squashed to S x S and normalised: (1, 3, S, S) float32."""
        size, mean, std = (self.config[name] for name in ('size', 'mean', 'std'))
        with Image.open(path, formats=FORMATS) as image:
            image.draft(image.mode, (2 * size, 2 * size))    # large JPEGs: at a half or less
            image = ImageOps.exif_transpose(image)
        if image.mode in GREY_16_BIT:    # convert() would clip it
            grey = np.asarray(image, np.float32) / 257
            image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new('RGBA', image.size, 'white')
            image = Image.alpha_composite(white, image.convert('RGBA'))
        image = image.convert('RGB').resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32) / 255                        # (S, S, 3)
        normalized = (pixels - np.float32(mean)) / np.float32(std)
        return normalized.transpose(2, 0, 1)[None]

    # ---- From features to ids ----

    def search(self, features, beam_size, max_len):
        """Beam search from the features of one photo -> ids [start, words..., end]."""
        end_id = self.config['end_id']
        state = self.first_state(features, beam_size)
        captions = np.full((beam_size, 1), self.config['start_id'])         # (K, T)
        total = np.full(beam_size, -np.inf, np.float32)                     # of log-probabilities
        total[0] = 0                                # one caption: the other places are empty
        words, ended = np.zeros_like(total), np.zeros(beam_size, bool)
        best, best_score = None, -np.inf
        while captions.shape[1] < max_len and not ended.all():
            log_probs, changed = self.next_words(captions[:, -1], state)    # (K, V)
            log_probs[ended] = -np.inf
            log_probs[ended, end_id] = 0            # one that has ended stays as it is
            words = words + ~ended
            scores = (total[:, None] + log_probs) / words[:, None] ** LENGTH_POWER
            scores = scores.ravel()                 # of all K * V ways to go on
            chosen = largest(scores, beam_size)
            rows, ids = np.divmod(chosen, log_probs.shape[1])
            scores, words = scores[chosen], words[rows]
            total = scores * words ** LENGTH_POWER
            ended = (ids == end_id) & (scores > -np.inf)
            captions = np.column_stack([captions[rows], ids])
            state |= {name: part[rows] for name, part in changed.items()}
            first = ended.argmax()                  # the best of those that have ended, if any
            if ended[first] and scores[first] > best_score:
                best, best_score = captions[first], scores[first]
        return captions[0] if best is None else best

    def first_state(self, features, beam_size):
        """{name: part of the decoder's state before the first word, (K, ...)}."""
        parts = self.start.run(None, {'features': features})
        return {output.name: part.repeat(beam_size, axis=0)
                for output, part in zip(self.start.get_outputs(), parts, strict=True)}

    def next_words(self, words, state):
        """Log-probabilities (K, V) of the words after words (K,), and the parts of the state that
        these changed. The unknown word is forbidden."""
        logits, *parts = self.step.run(None, {'words': words, **state})
        logits -= logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        log_probs[:, self.config['unk_id']] = -np.inf
        names = [output.name.removeprefix('next_') for output in self.step.get_outputs()[1:]]
        return log_probs, dict(zip(names, parts, strict=True))

    # ---- From ids to a sentence ----

    def text(self, ids):
        """Words up to the end word, with punctuation joined as in writing."""
        special = (self.config['start_id'], self.config['end_id'])
        words = [self.config['words'][number] for number in ids if number not in special]
        text = f' {" ".join(words)} '
        for pattern, joined in self.config['joining']:
            text = re.sub(pattern, joined, text)
        return text


def largest(values, count):
    """Places of the `count` largest values, from the largest down."""
    places = np.argpartition(-values, count - 1)[:count]
    return places[np.argsort(-values[places])]


def main():
    parser = argparse.ArgumentParser(description='Caption photos: one line each.')
    parser.add_argument('photos', nargs='+')
    parser.add_argument('--beam-size', type=int, default=5, help='1 is greedy (default: 5)')
    args = parser.parse_args()
    captioner = Captioner()
    for path in args.photos:
        print(f'{path}: {captioner.caption(path, args.beam_size)}')


if __name__ == '__main__':
    main()
