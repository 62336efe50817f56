"""Words that a recognizer can name, and the table of them for ImageNet's 1,000 classes.

    lines = read_table()                    # imagenet_words.tsv, one line a class
    words, classes = words_of(lines)        # [Word('cat', 'cats', ...)], [[281, 282, 283, ...]]

The table is to be read and edited by hand; ClassLine tells its columns.
"""

from pathlib import Path
from typing import NamedTuple

from captioning.files import repository_path, write_aside

TABLE = Path(__file__).with_name('imagenet_words.tsv')
HEADER = ('class', 'name', 'word', 'plural', 'use', 'article', 'also', 'kind', 'note')
USES = ('count', 'mass', 'plural')


class Word(NamedTuple):
    """A noun, and how a sentence uses it.

    word: in lower case. One of several words, such as 'traffic light', is one token to a decoder to
    which it is new. plural: of a count noun, else ''. use: 'count' (a cat, cats), 'mass' (corn) or
    'plural' (jeans: in the plural alone). article: 'a' or 'an' of a count noun, else ''. also:
    other forms that say the same, such as 'kitten'. kind: of thing, such as 'animal'; '' if it is
    of none.
    """

    word: str
    plural: str = ''
    use: str = 'count'
    article: str = ''
    also: tuple = ()
    kind: str = ''

    @property
    def forms(self):
        """Any of these says the word: singular, plural, others."""
        return tuple(form for form in (self.word, self.plural, *self.also) if form)


class ClassLine(NamedTuple):
    """A line of the table, its columns in order, all but the first of them text.

    number: of the class. name: torchvision's. word: '' where the class says nothing. article:
    '' where the first letter tells it. also: forms divided by ', '. note: why the class says
    this word, or none. The others are as in Word.
    """

    number: int
    name: str
    word: str = ''
    plural: str = ''
    use: str = ''
    article: str = ''
    also: str = ''
    kind: str = ''
    note: str = ''


def read_table(path=TABLE):
    """The lines of a table of classes -> list of ClassLine.

    Raises ValueError that names a line which is not as ClassLine says.
    """
    header, *rows = Path(path).read_text(encoding='utf-8').splitlines()
    if tuple(header.split('\t')) != HEADER:
        raise ValueError(f'{repository_path(path)}, line 1: expected the columns '
                         f'{", ".join(HEADER)}, divided by tabs.')
    lines = []
    for number, row in enumerate(rows):
        cells = row.split('\t')
        if len(cells) != len(HEADER) or cells[0] != str(number):
            raise ValueError(f'{repository_path(path)}, line {number + 2}: expected class {number} '
                             f'and {len(HEADER)} columns divided by tabs, not {row!r}.')
        lines.append(ClassLine(number, *cells[1:]))
    return lines


def write_table(path, lines):
    """Write a table of classes."""
    rows = ['\t'.join(map(str, cells)) for cells in (HEADER, *lines)]
    with write_aside(path) as aside:
        aside.write_text('\n'.join(rows) + '\n', encoding='utf-8')


def words_of(lines):
    """The words of a table, by first class -> (list of Word, list of the classes of each).

    Classes that say nothing are in none. ValueError names a class that uses a word otherwise than
    an earlier one.
    """
    words, classes = {}, {}
    for line in lines:
        if not line.word:
            continue
        word = _word(line)
        if words.setdefault(line.word, word) != word:
            raise ValueError(f"class {line.number} ({line.name}) has other columns for "
                             f"'{line.word}' than class {classes[line.word][0]}.")
        classes.setdefault(line.word, []).append(line.number)
    return list(words.values()), list(classes.values())


def _word(line):
    if line.use not in USES:
        raise ValueError(f'class {line.number} ({line.name}): use {line.use!r}, expected one of '
                         f'{", ".join(USES)}.')
    article = ''
    if line.use == 'count':
        article = line.article or ('an' if line.word[0] in 'aeiou' else 'a')
    also = tuple(line.also.split(', ')) if line.also else ()
    return Word(line.word, line.plural, line.use, article, also, line.kind)
