"""Draw the pictures of the README: the diagram of the model, scenes, photos with captions.

    python -m scripts.plots images      # writes model.png, scenes.jpg and own_photos.jpg
"""

import argparse
from pathlib import Path

from captioning import files
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.diagram import plot_model
from captioning.figures import GRACE_HOPPER, contact_sheet, save_figure, show_images
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(
        description='Draw the pictures of the README, from data/scenes and images/photos.')
    parser.add_argument('folder', help='where model.png, scenes.jpg and own_photos.jpg go')
    folder = Path(parser.parse_args().folder)
    save_figure(plot_model(), folder / 'model.png')
    draw_scenes(folder / 'scenes.jpg')
    draw_captioned_photos(folder / 'own_photos.jpg')


def draw_scenes(path):
    """24 of the built-in scenes, side by side."""
    scenes = sorted(CaptionData(files.SCENES).image_folder('val').iterdir())
    with files.write_aside(path) as aside:
        contact_sheet(scenes[:24]).save(aside, 'JPEG', quality=88)


def draw_captioned_photos(path):
    """The photos that ship, each with the caption of the model that ships."""
    photos = sorted((files.ROOT / 'images' / 'photos').iterdir())
    photos.append(GRACE_HOPPER)
    captions = load_captioner().caption(photos, beam_size=5)
    save_figure(show_images(photos, captions, columns=3, width=2.6), path)


if __name__ == '__main__':
    run_main(main)
