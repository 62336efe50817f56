"""The steps of the classic course notebooks, as forks run them, against our three modules.

Names, shapes and types are checked. Written anew after the public interface; the settings are
small.
"""

import math

import nltk
import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.utils.data as data
from torchvision import transforms

from data_loader import get_loader
from model import DecoderRNN, EncoderCNN

NORMALIZE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TRAIN = transforms.Compose([
    transforms.Resize(256), transforms.RandomCrop(224), transforms.RandomHorizontalFlip(),
    transforms.ToTensor(), NORMALIZE])
# Of 96 pixels, so that an epoch takes seconds.
SMALL = transforms.Compose([
    transforms.Resize(110), transforms.RandomCrop(96), transforms.RandomHorizontalFlip(),
    transforms.ToTensor(), NORMALIZE])
TEST = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(), NORMALIZE])


@pytest.fixture
def here(dataset, monkeypatch):
    monkeypatch.setenv('COCOAPI_LOC', str(dataset))
    return dataset


def test_preliminaries(here):
    loader = get_loader(transform=TRAIN, mode='train', batch_size=10, vocab_threshold=5,
                        vocab_from_file=False)
    vocab = loader.dataset.vocab
    tokens = nltk.tokenize.word_tokenize('A red square on grey .', preserve_line=True)
    caption = [vocab(vocab.start_word)]
    caption.extend([vocab(token.lower()) for token in tokens])
    caption.append(vocab(vocab.end_word))
    caption = torch.Tensor(caption).long()
    assert caption[0] == 0 and caption[-1] == 1
    assert vocab.unk_word == '<unk>' and vocab('jfkafejw') == 2
    assert dict(list(vocab.word2idx.items())[:3]) == {'<start>': 0, '<end>': 1, '<unk>': 2}

    loader = get_loader(transform=TRAIN, mode='train', batch_size=10, vocab_from_file=True)
    indices = loader.dataset.get_train_indices()
    loader.batch_sampler.sampler = data.sampler.SubsetRandomSampler(indices=indices)
    images, captions = next(iter(loader))

    encoder = EncoderCNN(256)
    features = encoder(images)
    assert type(features) is torch.Tensor
    assert features.shape[0] == 10 and features.shape[1] == 256
    decoder = DecoderRNN(256, 512, len(loader.dataset.vocab))
    outputs = decoder(features, captions)
    assert type(outputs) is torch.Tensor
    assert outputs.shape == (10, captions.shape[1], len(loader.dataset.vocab))


def test_training_and_inference(here, tmp_path):
    torch.manual_seed(0)
    np.random.seed(0)    # the course's steps draw from both
    loader = get_loader(transform=SMALL, mode='train', batch_size=6, vocab_threshold=1,
                        vocab_from_file=False)
    vocab_size = len(loader.dataset.vocab)
    encoder, decoder = EncoderCNN(32), DecoderRNN(32, 48, vocab_size)
    criterion = nn.CrossEntropyLoss()
    params = list(decoder.parameters()) + list(encoder.embed.parameters())
    optimizer = torch.optim.Adam(params=params, lr=0.01)
    captions = len(loader.dataset.caption_lengths)
    total_step = math.ceil(captions / loader.batch_sampler.batch_size)
    assert total_step == 10
    losses = []
    for _ in range(3 * total_step):
        indices = loader.dataset.get_train_indices()
        loader.batch_sampler.sampler = data.sampler.SubsetRandomSampler(indices=indices)
        images, captions = next(iter(loader))
        decoder.zero_grad()
        encoder.zero_grad()
        outputs = decoder(encoder(images), captions)
        loss = criterion(outputs.view(-1, vocab_size), captions.view(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # Over an epoch each: batches differ in length, and so do their losses.
    assert sum(losses[-total_step:]) < 0.8 * sum(losses[:total_step])
    torch.save(decoder.state_dict(), tmp_path / 'decoder-1.pkl')
    torch.save(encoder.state_dict(), tmp_path / 'encoder-1.pkl')

    loader = get_loader(transform=TEST, mode='test')
    original, image = next(iter(loader))
    assert np.squeeze(original).shape == (30, 40, 3)
    encoder, decoder = EncoderCNN(32), DecoderRNN(32, 48, len(loader.dataset.vocab))
    encoder.eval()
    decoder.eval()
    encoder.load_state_dict(torch.load(tmp_path / 'encoder-1.pkl'))
    decoder.load_state_dict(torch.load(tmp_path / 'decoder-1.pkl'))
    features = encoder(image).unsqueeze(1)
    output = decoder.sample(features)
    assert type(output) is list
    assert all(type(x) is int and x in loader.dataset.vocab.idx2word for x in output)


def test_the_encoder_takes_one_image_in_train_mode(here):
    assert EncoderCNN(8)(torch.randn(1, 3, 224, 224)).shape == (1, 8)
