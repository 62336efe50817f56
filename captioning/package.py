"""One zip of a run to hand in or to share: it captions photos wherever it is unpacked.

    names = package('runs/NAME/best.pt', 'NAME.zip')

In it are notebooks as HTML, modules, checkpoint, scores, and how to caption with it; of the
packages in its requirements.txt nothing is.
"""

import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from captioning import files
from captioning.captioner import export, without_places
from captioning.checkpoint import read_checkpoint
from captioning.files import read_json, weights_file, write_aside, write_json
from captioning.recognition.recognizer import CLASSIFIER, PEOPLE, WEIGHTS_OF_RECOGNIZERS
from captioning.tables import percent

README = '''# {name}: an image captioner

    python3 -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/python -m scripts.sample --checkpoint {name}.pt{model_file} --image photo.jpg{names}

`{model}` is the model as it was trained; `results/` has its settings, log, scores and captions\
{notebooks}.
The encoder's weights: {weights}.

{scores}
'''
NAMES = ' --names      # say what ImageNet knows'
MODULES = ('vocabulary.py', 'data_loader.py', 'requirements.txt', 'LICENSE',
           'scripts/requirements.txt')
LIBRARY = ('captioning/**/*.py', 'captioning/**/*.toml', 'captioning/recognition/*.t*',
           'scripts/*.py')
RESULTS = ('settings.json', 'log.jsonl', 'scores.json', 'curves.png', 'samples.png',
           'captions_test.jpg', 'attention.png', 'captions_val.json', 'captions_test.json')


def package(checkpoint, output):
    """Write the zip `output` of the run that a checkpoint belongs to -> names of its files."""
    checkpoint, output = Path(checkpoint), Path(output)
    run = checkpoint.parent
    of_run = checkpoint.name in ('best.pt', 'last.pt')
    name = run.name if of_run else checkpoint.stem
    weights = read_checkpoint(checkpoint)['encoder']['sizes']['weights']
    contents = _repository_files() | _result_files(run)
    settings = contents.get('results/settings.json')
    if file := weights_file(weights):
        weights = f'models/{file.name}'
        contents[weights] = file
    can_name = weights == f'models/{WEIGHTS_OF_RECOGNIZERS}'
    if can_name:
        contents |= {f'models/{file.name}': file for file in (CLASSIFIER, PEOPLE)}
    with tempfile.TemporaryDirectory() as folder, write_aside(output) as aside:
        exported = export(checkpoint, Path(folder) / f'{name}.pt', weights)
        contents |= {file.relative_to(folder).as_posix(): file for file in exported}
        if settings:
            contents['results/settings.json'] = _cleaned(settings, Path(folder))
        model = f'{name}.py' if f'{name}.py' in contents else 'model.py'
        contents.setdefault('model.py', files.ROOT / 'model.py')    # the library imports it
        readme = README.format(
            name=name, weights=weights, notebooks=_about_notebooks(contents),
            model=model, model_file='' if model == 'model.py' else f' --model-file {model}',
            scores=_about_scores(run), names=NAMES if can_name else '')
        with zipfile.ZipFile(aside, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f'{name}/README.md', readme)
            for inside, file in tqdm(contents.items(), unit=' files', delay=2, disable=None):
                archive.write(file, f'{name}/{inside}')
    return list(contents)


def _repository_files():
    paths = [files.ROOT / name for name in MODULES]
    for pattern in LIBRARY:
        paths += sorted(files.ROOT.glob(pattern))
    return {path.relative_to(files.ROOT).as_posix(): path for path in paths}


def _result_files(run):
    results = {f'results/{name}': run / name for name in RESULTS if (run / name).is_file()}
    pages = sorted((run / 'notebooks').glob('*.html'))
    return results | {f'notebooks/{page.name}': page for page in pages}


def _cleaned(settings, folder):
    """A copy of a run's settings.json in `folder`, without places of this machine."""
    content, copy = read_json(settings), folder / 'settings.json'
    write_json(copy, content | {part: without_places(content[part])
                                for part in ('settings', 'identity') if part in content})
    return copy


def _about_notebooks(contents):
    executed = any(name.startswith('notebooks/') for name in contents)
    return '; `notebooks/` shows how it was trained' if executed else ''


def _about_scores(run):
    if not (run / 'scores.json').is_file():
        return ''
    scores = [f'{name}: {percent(value)}'
              for name, value in read_json(run / 'scores.json').items()
              if isinstance(value, float)]
    return f'Validation, x100: {", ".join(scores)}.'
