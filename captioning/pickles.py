"""Read a pickled Vocabulary from a stranger.

Nothing in it is run, and it takes no more time and memory than its size allows.
"""

import pickle
import pickletools

# What is in a pickled vocabulary.
OPCODES = frozenset('''
    PROTO FRAME GLOBAL STACK_GLOBAL EMPTY_TUPLE TUPLE NEWOBJ REDUCE BUILD MARK DICT EMPTY_DICT
    SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET UNICODE BINUNICODE
    SHORT_BINUNICODE STRING BINSTRING SHORT_BINSTRING INT BININT BININT1 BININT2 LONG LONG1 NONE
    NEWTRUE NEWFALSE STOP'''.split())
MODULES = ('vocabulary', '__main__', 'build_vocab')    # where Vocabulary was defined


class _Unpickler(pickle.Unpickler):
    """Builds dicts, strings, numbers and one bare object; anything else is refused, not run."""

    def find_class(self, module, name):
        # Made anew each time: a pickle may set attributes of the class itself.
        bare = type('Bare', (), {})
        if name == 'Vocabulary' and module in MODULES:
            return bare
        if (module, name) == ('copy_reg', '_reconstructor'):    # how protocol 0 makes an instance
            return lambda *_: bare()
        if (module, name) == ('__builtin__', 'object'):
            return 'object'
        raise pickle.UnpicklingError(f'it asks for {module}.{name}')


def _check_opcodes(file):
    """Refuse what no pickled vocabulary has, and what could take all memory, or hours."""
    tuples = 0
    for opcode, argument, position in pickletools.genops(file):
        tuples += opcode.name == 'TUPLE'    # nested ones are hashed again and again
        endless_memo = 'PUT' in opcode.name and argument > position
        if opcode.name not in OPCODES or tuples > 1 or endless_memo:
            raise ValueError(f'{opcode.name} at byte {position}')
    file.seek(0)


def _check_attributes(attributes):
    words = attributes['word2idx']
    # Not isinstance: a class of the pickle's could have an endless iterator.
    if type(attributes) is not dict or type(words) is not dict:
        raise ValueError('word2idx is no dict')
    all_text = set(map(type, words)) == {str}
    all_whole = set(map(type, words.values())) == {int}
    if not all_text or not all_whole or sorted(words.values()) != list(range(len(words))):
        raise ValueError('word2idx does not map words to 0, 1, 2, ...')
    for key in ('start_word', 'end_word', 'unk_word', 'annotations_hash'):
        if not isinstance(attributes.get(key, ''), (str, type(None))):
            raise ValueError(f'{key} is no text')


def read_pickle(path):
    """Attributes of a pickled Vocabulary as a dict, with a checked 'word2idx'."""
    try:
        with open(path, 'rb') as file:
            _check_opcodes(file)
            attributes = vars(_Unpickler(file, encoding='utf-8').load())
        _check_attributes(attributes)
        return attributes
    except Exception as error:
        raise ValueError(
            f'{path} is not a vocabulary that can be read safely: {error}') from None
