"""Model files: other classes by --model-file, and modules of the repository that one imports."""

import json
import shutil
import sys

import pytest
import torch
from conftest import REPOSITORY
from torch import nn
from training_helpers import edited_model, open_run, train, train_until_killed, val_paths

import model
import scripts.train
from captioning import files
from captioning.captioner import load_captioner
from captioning.checkpoint import read_checkpoint
from captioning.model_files import load_model_file, recorded_sources
from captioning.training.settings import read_arguments

GRU = (
    ('self.lstm = nn.LSTM(', 'self.lstm = nn.GRU('),
    ('state = tuple(part.transpose(0, 1).contiguous() for part in state)',
     'state = state[0].transpose(0, 1).contiguous()'),
    ('return hidden, tuple(part.transpose(0, 1) for part in state)',
     'return hidden, (state.transpose(0, 1),)'),
)


def flags_of(settings):
    """The flags that give these settings: those that differ from the defaults."""
    model_file = f'--model-file={settings.model_file}'
    defaults, _ = read_arguments('Train.', [model_file])
    changed = {name: value for name, value in vars(settings).items()
               if value != getattr(defaults, name)}
    return [model_file, *(f'--{name.replace("_", "-")}={value}'
                          for name, value in changed.items())]


def test_the_command_trains_and_resumes_the_classes_of_a_model_file(
        settings, tmp_path, monkeypatch, capsys):
    file = edited_model(tmp_path / 'gru' / 'model.py', *GRU)
    options = settings(name='gru', model_file=str(file), save_seconds=0)
    uninterrupted = train(open_run(settings(name='uninterrupted', model_file=str(file))))
    train_until_killed(open_run(options), lambda run: run.epoch == 1 and run.batch == 3)
    capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', ['train', *flags_of(options)])
    scripts.train.main()
    assert 'gru: continues after 3 batches and 1 epochs' in capsys.readouterr().out
    folder = files.RUNS / 'gru'
    state = read_checkpoint(folder / 'last.pt')['decoder']['state']
    assert state['lstm.weight_ih_l0'].shape == (3 * 24, 16)    # an LSTM has 4 gates
    assert all(torch.equal(state[key], value)
               for key, value in uninterrupted.model.decoder.state_dict().items())
    assert (folder / 'model.py').read_text() == file.read_text()
    assert not (folder / 'imports').exists()


# ---- Model files that import ----

@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder that is taken for the repository; what is imported from it is forgotten again."""
    root = tmp_path / 'repository'
    shutil.copytree(REPOSITORY / 'captioning', root / 'captioning')
    shutil.copy(REPOSITORY / 'vocabulary.py', root)
    monkeypatch.setattr(files, 'ROOT', root)
    monkeypatch.syspath_prepend(root)
    before = set(sys.modules)
    yield root
    forget_modules_of(root, before)


def forget_modules_of(root, kept=()):
    for name, module in list(sys.modules.items()):
        file = getattr(module, '__file__', None) or ''
        if name not in kept and file.startswith(str(root)):
            del sys.modules[name]


def write_module(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_what_a_model_file_imports_is_recorded_with_it(settings, repository):
    write_module(repository / 'made_up_parts' / '__init__.py', '')
    write_module(repository / 'made_up_parts' / 'scaling.py', 'from made_up_size import SCALE\n')
    write_module(repository / 'made_up_size.py', 'SCALE = 3.5\n')
    file = edited_model(
        repository / 'scaled_model.py',
        ('import torchvision\n', 'import torchvision\nfrom made_up_parts import scaling\n'),
        ('self.scale = embed_size ** 0.5 if tied else 1.0', 'self.scale = scaling.SCALE'))
    run = train(open_run(settings(epochs=1, model_file=str(file))))
    expected = run.model.captioner('cpu').caption_features(run.val.features)
    imported = {path.relative_to(run.folder).as_posix()
                for path in run.folder.glob('imports/**/*.py')}
    assert imported == {'imports/made_up_size.py', 'imports/made_up_parts/__init__.py',
                        'imports/made_up_parts/scaling.py'}
    identity = json.loads((run.folder / 'settings.json').read_text())['identity']
    assert imported < identity.keys()

    write_module(repository / 'made_up_size.py', 'SCALE = 0.25    # edited since\n')
    forget_modules_of(repository)
    copy = run.folder / 'model.py'
    captioner = load_captioner(run.folder / 'best.pt', 'cpu', model_file=copy)
    assert captioner.decoder.scale == 3.5 and captioner.caption(val_paths(run)) == expected
    assert not [name for name in sys.modules if name.startswith('made_up')]
    again = open_run(settings(epochs=1, model_file=str(copy)))
    assert again.folder == run.folder and again.finished
    other = open_run(settings(epochs=1, model_file=str(file)))
    assert other.folder.name == 'squares-2' and other.model.decoder.scale == 0.25


def test_a_copy_builds_on_the_model_py_of_its_run(tmp_path, monkeypatch):
    """experiments/gru.py imports model.py, which may have become another since."""
    sources = recorded_sources(REPOSITORY / 'experiments' / 'gru.py')
    assert sources.keys() == {'model.py', 'imports/model.py'}
    for file, text in sources.items():
        write_module(tmp_path / file, text)
    monkeypatch.setattr(model, 'DecoderRNN', None)
    monkeypatch.setattr(model, 'EncoderCNN', None)
    decoder = load_model_file(tmp_path / 'model.py').DecoderRNN(4, 6, vocab_size=9)
    assert isinstance(decoder.lstm, nn.GRU)
    assert decoder(torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.long)).shape == (2, 5, 9)
    assert sys.modules['model'] is model and recorded_sources(tmp_path / 'model.py') == sources
