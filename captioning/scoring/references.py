"""What people wrote about each image, which captions are scored against.

    references = References('captions_val2014.json')    # tokenised once, and kept on disk
    references.tokens[42]                               # ['a dog runs', 'a brown dog is running']
"""

import contextlib
import functools
import json
from pathlib import Path

from captioning import files
from captioning.annotations import read_annotations
from captioning.files import text_hash, write_json
from captioning.scoring import ptb_tokens
from captioning.scoring.ptb_tokens import java_works, tokenize_java, tokenize_python


class References:
    """The captions of each image by people, as text and as tokens.

    annotations_file: COCO captions. annotations: its content, if it has been read already.
    image_ids: only these images. java: with the reference's tokenizer and the scores that need
    Java, where Java is there. leave_first_out: without the first caption of each image, so that
    people can be scored too. cache_dir: folder that keeps the tokens; 'default' is
    files.CACHE / 'references', None is nowhere.

    Attributes: image_ids, of the images that have captions; captions and tokens {image id: [str]};
    first {image id: str}, the first caption; tokenizer, 'python' or 'java'; java and asked_java,
    whether Java is used and whether it was wanted.
    Raises ValueError when no caption is left, and what read_annotations raises.
    """

    def __init__(self, annotations_file, image_ids=None, java=False, leave_first_out=False,
                 cache_dir='default', annotations=None):
        self.asked_java = java
        self.java = java and java_works()
        self.tokenizer = 'java' if self.java else 'python'
        if annotations is None:
            annotations = read_annotations(annotations_file)
        every = _captions_by_image(annotations, image_ids)
        self.first = {image_id: captions[0] for image_id, captions in every.items()}
        scored = {image_id: captions[leave_first_out:] for image_id, captions in every.items()}
        self.captions = {image_id: captions for image_id, captions in scored.items() if captions}
        if not self.captions:
            raise ValueError(f'{annotations_file} has no captions to score against.')
        self.image_ids = list(self.captions)
        self.tokens = self._tokens(cache_dir)

    def tokenize(self, captions):
        """Captions -> their tokens joined by spaces, split as the references are."""
        return tokenize_java(captions) if self.java else tokenize_python(captions)

    @functools.cached_property
    def bleu(self):
        """pycocoevalcap's BleuScorer that has counted the n-grams of the references."""
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        return self._count_ngrams(BleuScorer())

    @functools.cached_property
    def cider(self):
        """pycocoevalcap's CiderScorer that has counted the n-grams of the references."""
        from pycocoevalcap.cider.cider_scorer import CiderScorer
        scorer = self._count_ngrams(CiderScorer())
        scorer.compute_doc_freq()    # once: a second call would double the frequencies
        return scorer

    def _count_ngrams(self, scorer):
        for tokens in self.tokens.values():
            scorer.cook_append(None, tokens)
        return scorer

    def _tokens(self, cache_dir):
        captions = [caption for each in self.captions.values() for caption in each]
        lines = iter(self._tokenize_once(captions, cache_dir))
        return {image_id: [next(lines) for _ in each] for image_id, each in self.captions.items()}

    def _tokenize_once(self, captions, cache_dir):
        if cache_dir is None:
            return self.tokenize(captions)
        folder = files.CACHE / 'references' if cache_dir == 'default' else Path(cache_dir)
        source = Path(ptb_tokens.__file__).read_text('utf-8')    # another tokenizer, other tokens
        key = text_hash('\n'.join([self.tokenizer, source, *captions]))
        kept = folder / f'{key}.json'
        with contextlib.suppress(OSError, ValueError):
            return json.loads(kept.read_text('utf-8'))
        lines = self.tokenize(captions)
        with contextlib.suppress(OSError):    # a full disk costs time, not the scores
            write_json(kept, lines, indent=None)
        return lines


def _captions_by_image(annotations, image_ids):
    """{image id: its captions} of the images that have one, in the order of `image_ids`."""
    if image_ids is None:
        image_ids = [image['id'] for image in annotations['images']]
    captions = {image_id: [] for image_id in image_ids}
    for entry in annotations['annotations']:
        caption = str(entry['caption'])
        if entry['image_id'] in captions and caption.strip():
            captions[entry['image_id']].append(caption)
    return {image_id: each for image_id, each in captions.items() if each}
