"""Speed of the decoding methods, and of captioning photos from file to sentence."""

import numpy as np
import torch

from captioning.attention import has_attention
from captioning.benchmark.made_up import made_up_vocabulary
from captioning.benchmark.measure import seconds
from captioning.captioner import Captioner, load_captioner, model_file_beside
from captioning.decoding import beam_search, greedy, sample
from captioning.devices import default_device
from captioning.features import split_features
from captioning.photo_captions import caption_photos
from captioning.runs import latest_checkpoint
from captioning.tables import text_table
from model import DecoderRNN, EncoderCNN

METHODS = [('greedy', greedy, {}), ('sampling', sample, {'nucleus': 0.9})]
METHODS += [(f'beam {size}', beam_search, {'beam_size': size}) for size in (1, 3, 5, 10)]
BATCH_SIZE = 32    # photos that are encoded at a time


# ---- Decoding ----

def measure_decoding(data, images=1000):
    """Images/s of the decoding methods, by the newest run on this data, or random weights whose
    captions hardly end.
    """
    try:
        captioner, features = newest_captioner(data, images)
    except FileNotFoundError:
        captioner, features = random_captioner(images)
    encoder_seconds = images * seconds_to_encode(captioner)
    rows, greedy_seconds = [('method', 'images/s', 'times greedy', 'of the encoder')], None
    for name, method, options in METHODS:
        took = seconds_to_decode(captioner, features, method, options)
        greedy_seconds = greedy_seconds or took
        rows.append((name, f'{images / took:.0f}', f'{took / greedy_seconds:.1f}',
                     f'{took / encoder_seconds:.1%}'))
    print(text_table(rows, indent=2))
    attention = 'with' if has_attention(captioner) else 'without'
    print(f'  {images:,} images, decoder {attention} attention; the encoder takes '
          f'{encoder_seconds:.1f} s, {images / encoder_seconds:.0f} images/s')


def newest_captioner(data, images):
    """The newest run on this data -> (Captioner, features of that many images).

    The features are of the validation images, over and over where these are too few.
    FileNotFoundError if there is no run.
    """
    checkpoint = latest_checkpoint(data)
    captioner = load_captioner(checkpoint, default_device(), model_file_beside(checkpoint))
    cached, unreadable, _ = split_features(captioner.encoder, data, 'val', limit=images)
    features = torch.from_numpy(np.delete(cached, unreadable, axis=0)).float()
    return captioner, features[torch.arange(images) % len(features)]


def random_captioner(images):
    """-> (a Captioner with random weights, random features of that many images)"""
    torch.manual_seed(0)
    vocab, encoder = made_up_vocabulary(3_003), EncoderCNN(512)
    decoder = DecoderRNN(512, 512, len(vocab))
    captioner = Captioner(encoder, decoder, vocab, encoder.transform, default_device())
    return captioner, torch.randn(images, 2048)


def seconds_to_decode(captioner, features, method, options):
    """Seconds to caption images of which the features (N, ...) are there."""
    captioner.decode(features[:256], method, **options)    # warms up
    return seconds(lambda: captioner.decode(features, method, **options), repeats=3)


def seconds_to_encode(captioner):
    """Seconds that the bare encoder takes for an image, without reading it from disk."""
    encode_photos = bare_encoder(captioner)
    encode_photos()                                        # warms up
    return seconds(encode_photos, repeats=4) / BATCH_SIZE


def bare_encoder(captioner):
    """A function that encodes a batch of noise (B, 3, S, S)."""
    size = captioner.encoder.transform['size']
    photos = torch.randn(BATCH_SIZE, 3, size, size, device=captioner.device)
    return lambda: captioner.encode(photos)


# ---- Captioning photos ----

def measure_photos(data, images=1000, beam_sizes=(1, 3, 5)):
    """Captioning photos as scripts.sample does, with the captioner that ships, beside the bare
    encoder.
    """
    captioner, paths = load_captioner(), data.image_paths('val')[:images]
    rows = [('beam', 'photos/s', 'bare encoder, images/s', 'share')]
    for size in beam_sizes:
        list(caption_photos(captioner, paths[:64], size))    # warms up
        photo_rate, encoder_rate = photo_rates(captioner, paths, size)
        rows.append((str(size), f'{photo_rate:.1f}', f'{encoder_rate:.1f}',
                     f'{photo_rate / encoder_rate:.2f}'))
    print(text_table(rows, indent=2))


def photo_rates(captioner, paths, beam_size):
    """-> (photos/s from file to caption, images/s of the bare encoder)

    Both are measured by turns, for the speed of a machine drifts.
    """
    encode_photos = bare_encoder(captioner)
    encoder_seconds, photo_seconds = [], 0.0
    for first in range(0, len(paths), BATCH_SIZE):
        batch = paths[first:first + BATCH_SIZE]
        encoder_seconds.append(seconds(encode_photos) / BATCH_SIZE)
        photo_seconds += _seconds_to_caption(captioner, batch, beam_size)
    return len(paths) / photo_seconds, 1 / np.mean(encoder_seconds)


def _seconds_to_caption(captioner, paths, beam_size):
    return seconds(lambda: list(caption_photos(captioner, paths, beam_size)))
