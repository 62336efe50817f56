"""A folder with COCO 2014's numbers and names, made from a few hundred photos by hard links.

    python -m experiments.coco_size data/coco-size
    python -m experiments.coco_size data/coco-part --share 0.002

82,783, 40,504 and 40,775 images, 414,113 and 202,654 captions, ids and file names as COCO has them;
captions of COCO's lengths, and words as frequent as COCO's, but without meaning: what is rehearsed
with it is how long everything takes, and how much memory and disk. Beside cocoapi/ lies
dataset_coco.json, as Karpathy's splits come.
"""

import argparse
import gzip
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from captioning import files
from captioning.caption_data import CaptionData
from captioning.files import write_json
from captioning.photos import load_image, photos_in
from captioning.prepare import prepare_data
from captioning.recognition.like_words import NOUNS
from scripts import run_main

IMAGES = {'train': 82_783, 'val': 40_504, 'test': 40_775}
CAPTIONS = {'train': 414_113, 'val': 202_654}
OF_KARPATHY = 5_000    # of the validation images each in his validation and test split
LARGEST_ID = 581_929
SIZE = (640, 480)
PHOTOS = 300

# Words a caption: 8 and more, as the annotators were asked for, 10.5 on average.
LEAST_WORDS, MORE_WORDS, DISPERSION = 8, 2.5, 1.9
# Every seventh word is 'a'; COCO's 40 most frequent words make up two thirds of its text. The
# others fall off so fast that 8,855 words occur five times in 414,113 captions.
FREQUENT = ('a on of the in with and is man to an sitting two standing at people are next white '
            'woman street table holding person top group large down tennis riding small field '
            'train room his that plate front it by').split()
SHARE_OF_FREQUENT, TAIL_SHIFT, TAIL_POWER = 0.7, 245, 1.96


def make_folder(folder, share=1, seed=0):
    """Write the data set, or a share of it -> CaptionData."""
    data, rng = CaptionData(folder), np.random.default_rng(seed)
    photos = make_photos(Path(folder) / 'photos')
    ids = iter(rng.permutation(LARGEST_ID)[:sum(IMAGES.values())] + 1)
    words = Words(rng)
    for split, all_images in IMAGES.items():
        count = round(share * all_images)
        image_folder = data.image_folder(split)
        image_folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for number in range(count):
            image_id = int(next(ids))
            name = f'COCO_{split}2014_{image_id:012}.jpg'
            os.link(photos[number % len(photos)], image_folder / name)
            entries.append({'id': image_id, 'file_name': name,
                            'width': SIZE[0], 'height': SIZE[1]})
        content = {'images': entries}
        if split in CAPTIONS:
            captions = 5 * count + round(share * (CAPTIONS[split] - 5 * all_images))
            content['annotations'] = make_captions(entries, captions, words, rng)
        file = data.annotation_file(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content, indent=None)
    write_karpathy(data, round(share * OF_KARPATHY))
    return data


def write_karpathy(data, count):
    """Write dataset_coco.json: `count` images of 'val' each are his 'val' and 'test'."""
    images = []
    for split in CAPTIONS:
        sentences = defaultdict(list)
        for entry in data.annotations(split)['annotations']:
            tokens = entry['caption'].lower().rstrip('.').split()
            sentences[entry['image_id']].append({'raw': entry['caption'], 'tokens': tokens})
        names = ['train'] if split == 'train' else ['val'] * count + ['test'] * count + ['restval']
        for row, entry in enumerate(data.images(split)):
            images.append({'cocoid': entry['id'], 'imgid': len(images),
                           'filepath': f'{split}2014', 'filename': entry['file_name'],
                           'split': names[min(row, len(names) - 1)],
                           'sentences': sentences[entry['id']]})
    content = {'dataset': 'coco', 'images': images}
    write_json(data.folder / 'dataset_coco.json', content, indent=None)


def make_photos(folder):
    """Files of 640 x 480 pixels from photos of the repository and drawn scenes -> paths."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = prepare_data(files.SCENES).image_paths('train')
    sources = [*photos_in(files.ROOT / 'images' / 'photos'), *scenes][:PHOTOS]
    paths = []
    for number, source in enumerate(sources):
        paths.append(folder / f'{number}.jpg')
        image = load_image(source).resize(SIZE, Image.Resampling.BICUBIC)
        noise = np.random.default_rng(number).normal(0, 18, (*SIZE[::-1], 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=90)    # as large as COCO's: 160 kB
    return paths


def make_captions(entries, count, words, rng):
    """Annotations of images: five each, and of the first images one more."""
    images = [*range(len(entries))] * 5 + [*range(count - 5 * len(entries))]
    captions = words.captions(count)
    caption_ids = rng.permutation(900_000)[:count] + 1
    order = rng.permutation(count)    # an image's captions do not lie together in COCO's file
    return [{'image_id': entries[images[row]]['id'], 'id': int(caption_ids[row]),
             'caption': captions[row]} for row in order]


class Words:
    """Draws captions: words with the frequencies of COCO's, in no order that has a meaning."""

    def __init__(self, rng):
        self.rng = rng
        with gzip.open(NOUNS, 'rt', encoding='utf-8') as file:
            parts = file.read().split()
        nouns = {part.partition('=')[0] for part in parts if '=' in part}
        rare = sorted(word for word in nouns if word.isalpha() and word.islower())
        rng.shuffle(rare)
        self.words = np.array([*FREQUENT, *rare])
        frequent = 1 / (np.arange(len(FREQUENT)) + 3)
        tail = (np.arange(len(rare)) + TAIL_SHIFT) ** -TAIL_POWER
        self.shares = np.concatenate([SHARE_OF_FREQUENT * frequent / frequent.sum(),
                                      (1 - SHARE_OF_FREQUENT) * tail / tail.sum()])

    def captions(self, count):
        """Captions, a list of str."""
        chance = DISPERSION / (DISPERSION + MORE_WORDS)
        lengths = LEAST_WORDS + self.rng.negative_binomial(DISPERSION, chance, count)
        drawn = self.words[self.rng.choice(len(self.words), lengths.sum(), p=self.shares)]
        ends = np.cumsum(lengths)
        return [' '.join(drawn[end - length:end]).capitalize() + '.'
                for end, length in zip(ends, lengths, strict=True)]


def main():
    parser = argparse.ArgumentParser(description="Make a folder with COCO 2014's numbers.")
    parser.add_argument('folder', type=Path)
    parser.add_argument('--share', type=float, default=1, help='of all images (default: 1)')
    args = parser.parse_args()
    if args.folder.exists():
        shutil.rmtree(args.folder)
    make_folder(args.folder, args.share)
    print(f'COCOAPI_LOC={args.folder}')


if __name__ == '__main__':
    run_main(main)
