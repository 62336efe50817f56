"""Captioners as ONNX: the captions are PyTorch's, and what cannot be exported is told."""

import importlib.util
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.ops import Permute

import model
from captioning.captioner import Captioner, load_captioner
from captioning.checkpoint import model_state, save_checkpoint, weights_hash
from captioning.files import ROOT
from captioning.onnx_export import PACKAGES, compare, export_onnx, joining_rules
from experiments import gru, transformer
from scripts import checkpoint
from vocabulary import Vocabulary

for package in PACKAGES:    # tests/requirements.txt has them
    pytest.importorskip(package)

from captioning.onnx_caption import Captioner as OnnxCaptioner  # noqa: E402

WORDS = ['<start>', '<end>', '<unk>', *"a dog cat runs does n't 's , . on grass red".split()]
SIZE = 32
TURNED_LEFT, ORIENTATION = 6, 0x0112
SIZES = {'embed_size': 16, 'hidden_size': 16, 'vocab_size': len(WORDS)}


class GrowingDecoder(nn.Module):
    """Reads the mean of all words so far: its state is longer after each."""

    start_id, end_id = 0, 1

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(len(WORDS), 16), nn.Linear(32, len(WORDS))

    def init_state(self, features):
        return features, torch.zeros(len(features), 1, 16)

    def step(self, words, state):
        image, before = state
        before = torch.cat([before, self.embedding(words)[:, None]], dim=1)
        return self.linear(torch.cat([image, before.mean(dim=1)], dim=1)), (image, before)


class BranchingDecoder(model.DecoderRNN):
    """What it computes depends on a number in a tensor."""

    def step(self, words, state):
        logits, state = super().step(words, state)
        return (2 * logits if words[0].item() == 3 else logits), state


class SmallEncoder(nn.Module):
    """As EncoderCNN, with one convolution for a CNN."""

    transform = {'size': SIZE, 'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4]}

    def __init__(self, grid):
        super().__init__()
        pool = [nn.Flatten(2), Permute([0, 2, 1])] if grid else [nn.AdaptiveAvgPool2d(1),
                                                                 nn.Flatten()]
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), *pool)
        self.embed = nn.Sequential(nn.Linear(16, 16, bias=False), model.BatchNorm(16))


def make_captioner(decoder, grid=False):
    """A captioner with random weights, whose captions differ from photo to photo."""
    encoder = SmallEncoder(grid)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
        decoder.linear.bias[decoder.end_id] += 1
        encoder.embed[1].weight.fill_(10)
    captioner = Captioner(encoder, decoder, Vocabulary.from_words(WORDS), encoder.transform, 'cpu')
    captioner.dtype = torch.float32
    return captioner


@pytest.fixture
def photos(tmp_path):
    """Photos of many kinds: turned, several in a file, transparent, 16 bits a pixel, palette ..."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 4), np.uint8)
    rgba = Image.fromarray(coarse).resize((300, 200), Image.Resampling.BICUBIC)
    image, exif = rgba.convert('RGB'), Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    image.save(tmp_path / 'turned.jpg', exif=exif)
    image.save(tmp_path / 'several.jpg', 'MPO', save_all=True, append_images=[rgba.convert('L')])
    image.convert('CMYK').save(tmp_path / 'cmyk.jpg')
    image.convert('P').save(tmp_path / 'palette.gif')
    rgba.save(tmp_path / 'transparent.png')
    rgba.resize((SIZE, SIZE)).save(tmp_path / 'small.webp', lossless=True)
    Image.fromarray(rng.integers(0, 65536, (30, 40), np.uint16)).save(tmp_path / 'grey.png')
    return sorted(tmp_path.glob('*.*'))


@pytest.mark.parametrize(('decoder', 'grid'), [
    (lambda: model.DecoderRNN(**SIZES, num_layers=2, image='attention', tied=True), True),
    (GrowingDecoder, False)])
def test_an_exported_model_captions_as_in_pytorch(decoder, grid, photos, tmp_path):
    torch.manual_seed(1)
    captioner = make_captioner(decoder(), grid)
    export_onnx(captioner, tmp_path / 'onnx')
    exported = OnnxCaptioner(tmp_path / 'onnx', threads=1)
    lengths = set()
    for max_len, beam_size in itertools.product((4, 20), (1, 5)):
        expected = captioner.caption(photos, max_len, beam_size)
        assert [exported.caption(path, beam_size, max_len) for path in photos] == expected
        lengths.update(len(caption.split()) for caption in expected)
    assert len(lengths) > 3
    for path in photos:
        assert np.array_equal(exported.image(path), captioner.batch([path]).numpy()), path
    parts = {file.stem: file.read_bytes() for file in (tmp_path / 'onnx').glob('*.onnx')}
    compare(parts, captioner.encoder, captioner.decoder, SIZE)
    captioner.decoder.linear.bias.data[4] += 0.1
    with pytest.raises(RuntimeError, match='step.onnx gives other numbers than PyTorch'):
        compare(parts, captioner.encoder, captioner.decoder, SIZE)


def test_a_transformer_whose_state_begins_empty_is_exported(photos, tmp_path):
    torch.manual_seed(1)
    decoder = transformer.DecoderRNN(**SIZES, heads=2)
    captioner = make_captioner(decoder, grid=True)
    export_onnx(captioner, tmp_path / 'onnx')
    exported = OnnxCaptioner(tmp_path / 'onnx', threads=1)
    expected = captioner.caption(photos, beam_size=3)
    assert [exported.caption(path, beam_size=3) for path in photos] == expected


def test_the_command_exports_a_model_file_and_its_script_needs_no_torch(
        small_weights, photos, tmp_path, monkeypatch, capsys):
    torch.manual_seed(3)
    encoder_sizes = {'embed_size': 16, 'backbone': 'resnet18', 'weights': small_weights}
    encoder, decoder = model.EncoderCNN(**encoder_sizes), gru.DecoderRNN(**SIZES)
    state = model_state(encoder, decoder, Vocabulary.from_words(WORDS), encoder_sizes, SIZES,
                        weights_hash(encoder.backbone))
    save_checkpoint(tmp_path / 'gru.pt', state)
    folder = tmp_path / 'onnx'
    monkeypatch.setattr(sys, 'argv', ['checkpoint', str(tmp_path / 'gru.pt'), '--onnx', str(folder),
                                      '--model-file', gru.__file__])
    checkpoint.main()
    assert capsys.readouterr().out == f'{folder}: python {folder / "caption.py"} photo.jpg\n'
    captioner = load_captioner(tmp_path / 'gru.pt', 'cpu', gru.__file__)
    captioner.dtype = torch.float32
    captions = captioner.caption(photos, beam_size=3)
    ran = subprocess.run([sys.executable, '-c', WITHOUT_TORCH, folder / 'caption.py', *photos,
                          '--beam-size', '3'], capture_output=True, text=True, cwd=tmp_path)
    expected = [f'{path}: {caption}' for path, caption in zip(photos, captions, strict=True)]
    assert ran.stdout.splitlines() == expected, ran.stderr
    for file in folder.glob('*.onnx'):
        assert str(ROOT).encode() not in file.read_bytes(), file


WITHOUT_TORCH = """
import runpy, sys
sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'nltk', 'captioning']))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_words_are_joined_as_the_vocabulary_joins_them():
    words = """a dog can not does n't it 's they 'll ' '' `` " , . : ; ? ! ... -- ( ) [ ] { } < >
               % $ # & * / gon na wan na lem me d 'ye 't is ai n't cannot 3 's .""".split()
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', *dict.fromkeys(words)])
    exported = OnnxCaptioner.__new__(OnnxCaptioner)
    exported.config = {'words': list(vocab.word2idx), 'start_id': 0, 'end_id': 1,
                       'joining': json.loads(json.dumps(joining_rules()))}
    rng = np.random.default_rng(0)
    for length in range(300):
        ids = [0, *rng.integers(2, len(vocab), length % 15).tolist(), 1]
        assert exported.text(ids) == vocab.decode(ids), ids


def test_a_model_that_cannot_be_exported_is_told(tmp_path):
    captioner = make_captioner(BranchingDecoder(**SIZES))
    with pytest.raises(ValueError, match='logits and next_state_2 and next_state_3 cannot be '
                                         r'exported to ONNX: GuardOnDataDependent'):
        export_onnx(captioner, tmp_path / 'onnx')
    assert not (tmp_path / 'onnx').exists()


def test_missing_packages_are_named(monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name: None if name.startswith('onnx') else find_spec(name))
    with pytest.raises(RuntimeError, match='`pip install onnx onnxscript onnxruntime`'):
        export_onnx(None, tmp_path / 'onnx')
