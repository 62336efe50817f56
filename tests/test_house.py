"""Rules of the house: lines of 100 columns, and imports that go one way."""

import json

import pytest

from captioning.files import ROOT
from experiments.import_graph import circle, read_imports, read_modules

COLUMNS = 100
FOLDERS = ('captioning', 'scripts', 'experiments', 'models', 'tests')
FOUNDATIONS = {'captioning.files', 'captioning.annotations', 'captioning.pickles',
               'captioning.caption_data', 'captioning.photos'}


def python_files():
    return [*ROOT.glob('*.py'), *(path for folder in FOLDERS
                                  for path in (ROOT / folder).rglob('*.py'))]


def code_cells(notebook):
    cells = json.loads(notebook.read_text('utf-8'))['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']


def too_long(text):
    return [line for line in text.splitlines() if len(line) > COLUMNS]


def test_no_line_of_code_is_over_100_columns():
    files = python_files()
    lines = {path.relative_to(ROOT): too_long(path.read_text('utf-8')) for path in files}
    assert len(files) > 80 and too_long('x' * 101) and not too_long('x' * 100)
    assert not {path: long for path, long in lines.items() if long}


def test_no_line_of_a_notebook_is_over_100_columns():
    notebooks = list(ROOT.glob('*.ipynb'))
    lines = {path.name: too_long('\n'.join(code_cells(path))) for path in notebooks}
    assert len(notebooks) == 4
    assert not {name: long for name, long in lines.items() if long}


# ---- Imports, of which those inside functions count too ----

@pytest.fixture(scope='module')
def imports():
    """{module: modules of the repository that it imports}"""
    return {module: set(targets) for module, targets in read_imports(read_modules()).items()}


def test_imports_have_no_circle(imports):
    assert len(imports) > 80
    assert circle(imports) is None


def test_a_circle_is_noticed_also_where_an_import_is_inside_a_function(tmp_path):
    (tmp_path / 'a.py').write_text('import b')
    (tmp_path / 'b.py').write_text('def late():\n    from c import one')
    (tmp_path / 'c.py').write_text('from a import two')
    modules = {name: tmp_path / f'{name}.py' for name in 'abc'}
    assert sorted(set(circle(read_imports(modules)))) == ['a', 'b', 'c']
    del modules['c']
    assert circle(read_imports(modules)) is None


def test_the_library_imports_no_command(imports):
    for module, targets in imports.items():
        if not module.startswith('scripts'):
            assert not [target for target in targets if target.startswith('scripts')], module


@pytest.mark.parametrize('module', ['vocabulary', 'data_loader', 'model'])
def test_the_three_modules_of_the_course_stand_on_foundations_alone(imports, module):
    library = {target for target in imports[module] if target.startswith('captioning')}
    assert library <= FOUNDATIONS, library - FOUNDATIONS
