"""Draw the built-in data set: captioned picture-book scenes in the COCO 2014 layout, with the truth of what was drawn.

    python -m scripts.scenes --output data/scenes --train 2000 --val 400 --test 400 --seed 0

Each image entry has a key `scene`: `place`, `held_out` and `objects`, the main thing first, each with `kind`, `nouns`
(any of them names it), `colour` or null, `size`, `count` and `relation`: of the main thing to the second, else null.
A kind's last colour is held out: only pictures of test with `held_out` show it. `info['words']` in each file lists the
words that name a place, a relation, a count or a colour.
"""

import argparse
import functools
import inspect
import json
import math
import re
import tempfile
from collections import namedtuple
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageOps
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

from scripts import run_main

VERSION = 1     # raise it when pictures or captions change, so that older data is not taken for the same
DETAIL = 4      # pictures are drawn this many times larger and averaged down, which makes edges smooth
COLOURS = dict(red='#d82c2c', orange='#f68c24', yellow='#fcd634', green='#3ea64c', blue='#306cd8', purple='#8a46b2',
               pink='#f88ab6', white='#faf9f4', black='#3a3842', brown='#925e38')
OCTAGON = [(1.08 * math.cos(i * math.pi / 4), 1.08 * math.sin(i * math.pi / 4)) for i in range(8)]  # smoothed: a circle
PEOPLE = dict(skin='#fdb #eb8 #b85 #854', hair='#432 #742 #eb5 #b52', cloth='#359 #667 #854')
# A drawing is a list of shapes, the rearmost first, on a grid of 100 by 100, the foot at 5000: points are xxyy, y up.
# o PAINT centre radii: oval; r PAINT corner corner: rectangle; p PAINT points: polygon; b PAINT points: one rounded off
# to a blob; l PAINT width points: rounded line; u PART size middle: another drawing. After @ come the shifts at which
# a shape is repeated, or = for its mirror image. PAINT: a CSS colour, one of PEOPLE, or the thing's main, dark, light.
PARTS = dict(
    eye='o #323 5050 4450; o white 6470 1516', wheel='o #323 5050 5050; o #ccc 5050 3030; o #323 5050 0808',
    face='o skin 1646 1313; o skin 5050 5048; u eye 18 5854 @ 28; o salmon 5032 0906 @ 40; l #323 4 6230 7320 8430',
    short='b hair 0957 1186 5099 8989 8763 6370 4173 3450 2137', long='b hair 2501 0107 0981 5099 9183 8738 7525',
    fringe='b hair 1050 1090 5099 9090 9057 7074 4373 2357 2123 1023',
    lady='''u long 55 5078; l skin 8 4424 4403 @ 14; o #323 4603 0805 @ 14; l skin 7 4256 3044 3434; p main 4066 2416
      7616 6066; o main 5060 1210; u face 34 5180; u fringe 51 5180''',
    brolly='l sienna 3 5000 5060; b main 0151 0399 9799 9951 8361 6651 5061 3451 1761; b light 3452 3799 6399 6652',
    cloud='o white 2050 3016; o white 5060 3224; o white 8050 2815',
    pines='r #754 4400 5619 @ 57 -50; p #587 1213 5073 8813 @ 57 -50; p #7a8 2144 5099 7944 @ 57 -50')
Kind = namedtuple('Kind', 'nouns colours places acts drawing')
DAY, SKY = 'beach street meadow snow', 'beach street meadow snow sea'
KINDS = dict(
    boy=Kind('boy boys kid kids child children', 'red blue yellow green purple', DAY + ' night', 'run', '''l cloth 12
      4636 3821 1423; o #323 1326 0508; l dark 8 5253 3650 2937; o skin 2836 0505; l cloth 12 5236 7530 6807; o #323
      7205 0905; b main 3464 3027 6625 7064; l main 10 5555 6843 8044; o skin 8448 0505; u face 34 5773; u short 51
      5773; b main 3778 3797 7499 7581 5781; b dark 6177 6283 8783 8777'''),
    girl=Kind('girl girls child children', 'pink yellow purple red', 'beach meadow snow', 'fly:kite', '''l #323 1 4861
      7175 8699; u lady 76 2938; l skin 7 2946 4148 4862; u kite 50 8692'''),
    man=Kind('man men person people', 'red blue white yellow green', DAY + ' night', 'ride:bike', '''u wheel 40 2020 @
      60; o white 2020 1313 @ 60; l main 5 7056 7244 3644 2020 4818 7244 8020; l main 5 3646 4818; l #323 5 7056 7956; l
      #323 6 3048 4248; l cloth 11 3850 6242 5220; o #323 5615 0804; b main 2648 3892 6488 4846; l main 9 5276 6464; l
      skin 7 6464 7757; u face 28 5890; u short 42 5890'''),
    woman=Kind('woman women lady ladies', 'red purple yellow green', DAY + ' night', 'hold:umbrella', '''u lady 82 3841;
      u brolly 69 6670; l main 8 4048 5440; l skin 6 5440 6646'''),
    dog=Kind('dog dogs puppy puppies', 'brown black white', DAY + ' room', 'stand walk', '''l main 7 2041 0851 0965; l
      dark 10 3130 2504 @ 41; l main 11 2430 2704 @ 35; b main 0948 1118 4126 6816 8535 7358 3249; o main 7664 1817; o
      light 9156 1109; o #323 9960 0504; b dark 5581 7179 7349 5739 5462; u eye 10 8269; l red 4 6249 8046'''),
    cat=Kind('cat cats kitten kittens', 'orange black white', DAY + ' room', 'sit', '''l main 8 3408 0804 0424 1434; b
      main 1800 2050 5064 7652 8200; o light 5022 1318; o main 3704 0906 @ 26; p main 2472 2498 4488 @ =; o main 5072
      2923; u eye 12 3976 @ 22; p pink 4669 5469 5064; l #323 1 4362 5057 5762; l #323 1 3865 1467 @ ='''),
    horse=Kind('horse horses pony ponies', 'brown white black', 'beach meadow snow', 'stand walk', '''l #323 7 2043 1037
      1316; l dark 7 3230 2803 @ 34; l main 7 2530 2303 @ 34; b main 1451 1722 5028 7221 7745 5748; l main 13 6842 7563;
      b main 6875 8075 9955 9048 7757; l #323 6 6049 6560 7173; p main 7170 7279 7772; u eye 6 8064'''),
    elephant=Kind('elephant elephants', '', 'meadow night', 'stand', '''r #9aa 2000 3232 @ 11 37 48; b #9aa 0732 1811
      5027 8711 8567 1872; l #9aa 11 8053 9540 8813 9908; o #9aa 7454 1918; o #ccc 6153 1418; u eye 8 8359'''),
    duck=Kind('duck ducks', 'yellow white brown', 'sea', 'swim', '''p orange 7353 9348 7343; b main 0143 1702 5800 8616
      7854 5346 5530 3425; o main 6449 1514; b dark 2230 3707 6610 5828; u eye 9 6854'''),
    fish=Kind('fish fish', 'orange purple red', 'sea', 'swim', '''p dark 2735 0458 0935 0412; b dark 3849 4671 6858
      6844; b main 1535 4167 9460 9932 8509 4107; l light 4 5753 5035 5719; u eye 15 7642; l #323 2 9928 8925 8428'''),
    bird=Kind('bird birds', 'red blue yellow green', SKY, 'fly', '''p dark 2239 0249 0432; b dark 4844 2088 5974 6444; o
      main 5039 3015; o main 7548 1211; p orange 8551 9946 8542; b main 3842 1179 5069 5939; u eye 10 7850'''),
    penguin=Kind('penguin penguins', '', 'snow', 'stand', '''o orange 3903 1104 @ =; b #323 3258 0118 2421 3235 @ =; o
      #323 5041 2641; o white 5034 1930; o white 4262 1011 @ =; u eye 10 4364 @ 14; p orange 4356 5756 5048'''),
    car=Kind('car cars', 'red blue purple green', DAY + ' night', 'drive', '''b main 0922 2071 7471 9322; p #bef 2436
      3253 4753 4736; p #bef 5336 5353 6453 7636; r main 0110 9937; o gold 9527 0505; u wheel 25 2312 @ 54'''),
    bus=Kind('bus buses', 'yellow red green blue', 'street night snow', 'drive', '''r main 0110 9965; r #bef 0738 2257 @
      20 40; r #bef 8236 9857; r #bef 6614 7857; l light 4 0330 6230; o gold 9622 0405; u wheel 22 2211 @ 63'''),
    train=Kind('train trains engine engines', 'green red blue black yellow', 'meadow snow beach', 'travel', '''o white
      6082 0806; o white 7277 0605; p #323 7243 6965 8465 8143; r main 0712 3663; r dark 0461 4068; r #bef 1439 3056; r
      main 3519 8946; l light 3 4820 4844 @ 15; p #323 8405 9905 8720; u wheel 24 2112; u wheel 17 4509 @ 19 37'''),
    boat=Kind('boat boats sailboat sailboats', 'red yellow white green purple', 'sea', 'sail', '''l sienna 4 4820 4897;
      p white 5228 5289 9028; p main 4428 4491 1034; p red 4891 4899 6295; p main 0126 9926 8400 1600'''),
    plane=Kind('plane planes airplane airplanes', 'white red blue yellow', SKY, 'fly', '''p dark 2142 1163 3545; p dark
      5043 3963 6443; b main 0443 2725 8123 9936 8149 2748; o #bef 3340 0303 @ 11 22 32 46; p dark 5336 3514 7036'''),
    tree=Kind('tree trees', '', DAY + ' night', 'grow stand', '''b sienna 3600 4420 4250 5850 5620 6400; o #375 2858
      2420 @ =; o #4a5 5080 2822; o #4a5 3466 2620 @ =; o #4a5 5058 2414'''),
    flower=Kind('flower flowers', 'red purple yellow pink', 'meadow beach', 'grow bloom', '''l #4a5 6 5002 5230 5058; b
      #4a5 5010 1616 3036 @ =; o main 5090 1314; o main 7174 1413 @ =; o main 6352 1313 @ =; o gold 5070 1313'''),
    house=Kind('house houses cottage cottages', 'white red yellow blue', DAY + ' night', 'stand', '''r #ccc 6660 7786; r
      main 1300 8753; p #89a 0149 5091 9949; r sienna 4100 5929; r #bef 1918 2638 @ 8 47 55; o #bef 5064 0707'''),
    tent=Kind('tent tents', 'orange purple blue yellow', 'beach meadow snow night', 'stand', '''p dark 5071 9900 7400; p
      main 5071 0100 8600; p light 5071 1600 3000; p #323 5051 3800 6400; l sienna 2 5069 5079'''),
    ball=Kind('ball balls', 'orange green blue red', DAY + ' room', 'lie', '''o main 5042 4242; o white 5042 2641; o
      main 5042 1041; o white 5078 1005; o light 1858 0307'''),
    kite=Kind('kite kites', 'red green purple yellow', SKY, 'fly', '''l dark 2 5020 4006 5400 4200; p main 5024 1666
      5099; p light 5024 8466 5099; l dark 2 5024 5099; l dark 2 1666 8466; p main 3610 4800 3800'''),
    balloon=Kind('balloon balloons', 'red pink green orange', DAY + ' room', 'float', '''l #323 1 5027 5514 4504 5000; p
      dark 4525 5525 5036; b main 0757 1199 8999 9357 5018; b light 2969 2985 4387'''),
    chair=Kind('chair chairs', 'red blue green white', DAY + ' room', 'stand', '''l dark 7 2844 2812 @ =; l main 8 2498
      2450 @ =; l main 8 2494 7694; l main 7 2474 7674; l main 8 1840 1803 @ =; p main 2454 7654 9038 1038'''),
    cake=Kind('cake cakes', 'pink white brown yellow', 'room meadow', 'stand', '''o white 5005 5006; r #fec 1005 9032; r
      main 0824 9236; l main 6 1628 1618 @ 24 46 68; r #fec 2234 7856; r main 2048 8060; l white 4 3660 3676 @ 14 28; o
      orange 3682 0406 @ 14 28; o red 3042 0404 @ 20 40'''),
    snowman=Kind('snowman snowmen', '', 'snow', 'stand smile', '''l sienna 3 3346 1059 @ =; o white 5019 2822; o white
      5048 2018; o white 5071 1514; r #323 3380 6784; r #323 3982 6199; u eye 7 4474 @ 11; p orange 4869 6766 4864; o
      #323 5048 0202; o #323 5040 0202; l cloth 6 3759 5056 6359; l cloth 6 5857 6144'''),
    teddy=Kind('teddy teddies bear bears', 'brown white pink', 'room meadow beach', 'sit smile', '''o main 3084 1010 @
      =; o light 3084 0505 @ =; b main 3255 0137 1318 3740 @ =; o main 5031 2627; o light 5029 1617; o main 2809 1211 @
      =; o light 2708 0606 @ =; o main 5070 2723; o light 5062 1209; u eye 9 3973 @ 22; o #323 5066 0504'''))
Place = namedtuple('Place', 'shades phrases backdrop')   # shades: of the sky and of the ground, each from top to bottom
PLACES = dict(
    beach=Place('#7ce #def #eda #ec8', 'on the beach, at the beach, on the sand, on the shore', '''o #fea 7570 0808; u
      cloud 17 2868; u cloud 11 5762; l #49c 17 0040 9940; l #6bd 10 0037 9937; l #8ce 4 0034 9934; l #eff 1.2 0034 0036
      2533 5035 7533 9936 9934; l #def 0.6 1743 2743 @ 42; o #db7 2210 0201 @ 17 60; o #fed 7005 0201'''),
    street=Place('#ace #eef #aaa #888', 'on the street, on the road, in the city, in town', '''u cloud 12 6775; r #dba
      0033 0870; r #bcd 0733 3260; r #dca 3033 5575; r #cbc 5333 7857; r #ccb 7733 9968; r #dba 9933 9958; r #eee 1238
      1847 @ 10 22 32 46 56 70 80; r #eee 3552 4160 @ 10 48 58; l #ccb 7 0032 9932; r #eed 0012 1514 @ 27 53 80'''),
    meadow=Place('#8ce #eef #ac6 #7b4', 'in a meadow, in a field, on the grass, in the grass', '''o #fe9 2372 0707; u
      cloud 18 6872; u cloud 10 4563; b #bd9 0030 0055 3350 6733 6725; b #ad8 4228 6747 9955 9933 9925; l #694 0.8 2025
      1828 @ 2 23 25 62 63; l #694 0.8 3307 3211 @ 2 37 38; o #fec 3020 0101 @ 25 55; o #fcd 4715 0101 @ 37 -30'''),
    snow=Place('#abd #dde #eef #dde', 'in the snow, in winter, on a cold day', '''b #eef 0028 1767 8350 9928; u pines 23
      1746; u pines 26 8046; o white 1377 0101 @ 25 42 65; o white 2067 0101 @ 20 47 70'''),
    night=Place('#124 #348 #357 #245', 'at night, in the dark, in the moonlight', '''o #fec 7770 0808; o #ffd 1377 0101
      @ 25 47; o #ffd 2067 0101 @ 20 42 70; b #346 0030 0855 5042 9950 9925'''),
    room=Place('#eec #edb #ca7 #b86', 'in a room, indoors, at home, in the living room', '''r #fee 1548 4077; r #ade
      1750 2775 @ 12; r #ceb 1750 2757 @ 12; r #864 6755 8573; r #fed 6857 8372; o #e98 7664 0505; l #fed 3 0035 9935; l
      #a75 0.5 0023 9923; l #a75 0.5 0013 9913; o #9ab 5010 3708; o #bcc 5010 3006'''),
    sea=Place('#8ce #def #5ad #38b', 'on the sea, in the water, in the ocean, on the waves', '''o #fea 2572 0707; u
      cloud 18 7070; l #5ad 22 0036 9936; l #cef 0.8 1338 2040 2738 @ 32 53; l #cef 1 2225 3228 4225 @ 40; l #cef 1.2
      0807 2009 3207 @ 25 50'''))
FLYERS, PERCHING = ('bird', 'plane', 'kite', 'balloon'), ('cat', 'cake', 'teddy', 'ball')   # the latter on a chair
COUNTS = {1: 'a', 2: 'two, two, a couple of, a pair of', 3: 'three', 4: 'four'}
SIZES = dict(small=(.6, 'small, little, tiny, '), medium=(1, ''), large=(1.3, 'big, large, huge, '))
# Where things are: (x from the middle, y of the foot, size) in hundredths of the picture, for 1 to 4 main things ...
SPOTS = {1: [(0, 9, 52)], 2: [(-23, 9, 44), (23, 9, 44)], 3: [(0, 29, 38), (-26, 8, 38), (26, 8, 38)],
         4: [(-18, 29, 36), (26, 29, 36), (-26, 8, 36), (18, 8, 36)]}
RELATIONS = {   # ... and for the second thing and the main one; before that the words, and what the second thing may be
    'next to': ('next to, beside, near', 'tree flower chair house snowman car tent boat', [(28, 13, 36), (-21, 8, 48)]),
    'above': ('above, high above', 'house tree boat tent car train', [(0, 8, 42), (3, 54, 42)]),
    'under': ('under, below, beneath', 'balloon plane bird', [(4, 68, 28), (0, 8, 48)]),
    'in front of': ('in front of', 'house tent bus tree', [(-11, 26, 62), (11, 6, 44)]),
    'on': ('on, on top of', 'chair', [(0, 8, 54), (0, 34, 44)])}
PATTERNS = ('{s} {be} {ing} {rel} {place}', '{s} {ing} {rel} {place}', '{s} {does} {rel} {place}', '{s} {rel} {place}',
            'there {be} {s} {rel} {place}', '{place} there {be} {s} {rel}', 'a picture of {s} {rel} {place}',
            '{place} {s} {be} {ing} {rel}', 'we see {s} {rel} {place}')
WORDS = dict(place={name: [words.split()[-1] for words in place.phrases.split(', ')] for name, place in PLACES.items()},
             relation={name: relation[0].split(', ') for name, relation in RELATIONS.items()}, colour=[*COLOURS],
             count={1: ['a', 'an'], 2: ['two', 'couple', 'pair'], 3: ['three'], 4: ['four']})


@functools.cache
def shapes(drawing):
    """Parse a drawing into a list of (paint, line width or 0 for a filled shape, points as complex numbers x + y i)."""
    found = []
    for text in drawing.split(';'):
        text, _, repeats = text.partition('@')
        shape, paint, *points = text.split()
        size = float(points.pop(0)) if shape in 'lu' else 0
        points = [complex(int(point[:2]), int(point[2:])) for point in points]
        if shape == 'o':
            points = [points[0] + complex(points[1].real * x, points[1].imag * y) for x, y in OCTAGON]
        elif shape == 'r':
            points = [complex(points[i].real, points[j].imag) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        for _ in range(3 if shape != 'u' else 0):   # cutting corners off tends to a smooth curve (Chaikin 1974)
            ends = zip(points, points[1:] + points[:1], strict=True)
            cut = [a + (b - a) * t for a, b in ends for t in ((.06, .94) if shape in 'pr' else (.25, .75))]
            points = cut if shape != 'l' else [points[0], *cut[1:-3], points[-1]]
        new = [(paint, size, points)] if shape != 'u' else [
            (name, width * size / 100, [points[0] + (z - 50 - 50j) * size / 100 for z in inner])
            for name, width, inner in shapes(PARTS.get(paint) or KINDS[paint].drawing)]
        found += new + [(name, width, [100 - z.conjugate() if shift == '=' else z + int(shift) for z in points])
                        for shift in repeats.split() for name, width, points in new]
    return found


def paint(image, drawing, scale, paints, ink, place):
    """Draw on `image`: `scale` is pixels per hundredth, `ink` the width of outlines or 0, `place(z)` gives pixels."""
    pen = ImageDraw.Draw(image)
    for name, width, points in shapes(drawing):
        points = [(z.real, z.imag) for z in map(place, points)]
        colour, width = paints.get(name) or ImageColor.getrgb(name), width * scale
        edge = tuple(v * 2 // 3 for v in colour) if ink else colour
        if not width:
            pen.polygon(points, colour)
            pen.line(points + points[:2], edge, max(1, ink))
            continue
        for stroke, tint in ((width + 2 * ink, edge), (width, colour))[width <= 3 * ink:]:
            pen.line(points, tint, max(1, round(stroke)), 'curve')
            for x, y in points[::len(points) - 1]:
                pen.circle((x, y), stroke / 2, tint)


def draw_thing(image, thing, x, y, size, rng, grounded):
    """Draw one object of a scene with its foot at (x, y) and of this size, in hundredths of the picture, y up."""
    scale, bright = size * image.width / 10000, rng.uniform(.92, 1.04)
    main = tuple(min(255, int(v * bright)) for v in ImageColor.getrgb(COLOURS[thing['colour'] or 'white']))
    paints = {name: ImageColor.getrgb(rng.choice(some.split())) for name, some in PEOPLE.items()}
    paints |= dict(main=main, dark=tuple(v * 4 // 5 for v in main), light=tuple((v + 255) // 2 for v in main))
    flip, wide, tall, lean = rng.choice((-1, 1)), rng.uniform(.93, 1.07), rng.uniform(.94, 1.06), rng.uniform(-.07, .07)
    bend, phase, left, foot = rng.uniform(.5, 2), rng.uniform(0, 6), scale * 70, scale * 115

    def place(z):       # no two things alike: each is stretched, leaning and bent a little
        across = (z.real - 50) * wide + z.imag * lean + bend * math.sin(z.imag / 20 + phase)
        up = z.imag * tall + bend * math.sin(z.real / 20 + phase)
        return complex(left + scale * flip * across, foot - scale * up)

    layer = Image.new('RGBA', (round(left * 2), round(foot + scale * 15)))
    paint(layer, KINDS[thing['kind']].drawing, scale, paints, max(1, round(scale * 1.2)), place)
    x, y = round(x / 100 * image.width), round((1 - y / 100) * image.width)
    if grounded:
        shadow = (x - scale * 48, y - scale * 8, x + scale * 48, y + scale * 8)
        ImageDraw.Draw(image, 'RGBA').ellipse(shadow, (30, 26, 50, 60))
    solid, corner = layer.getchannel('A'), (x - round(left), y - round(foot))
    image.paste(layer, corner, solid)
    lit = solid.reduce(8).filter(ImageFilter.BoxBlur(scale * .6)).resize(layer.size)   # light falls from the upper left
    lit = ImageChops.offset(lit, -round(scale * 4)).point([(255 - v) * 3 // 10 for v in range(256)])
    image.paste((40, 20, 70), corner, ImageChops.multiply(solid, lit))


def draw_scene(scene, size, rng):
    """Draw `scene` as an RGB image of `size` by `size` pixels; every variation comes from `rng`, a random.Random."""
    side, place, (main, *others) = size * DETAIL, PLACES[scene['place']], scene['objects']
    image, sky, shades = Image.new('RGB', (side, side)), side * 58 // 100, place.shades.split()
    for top, bottom, pair in ((0, sky, shades[:2]), (sky, side, shades[2:])):
        image.paste(ImageOps.colorize(Image.linear_gradient('L').resize((side, bottom - top)), *pair), (0, top))
    flip, shift, unit = rng.choice((-1, 1)), rng.uniform(-57, -43), rng.uniform(1.15, 1.27) * side / 100
    paint(image, place.backdrop, unit, {}, 0,
          lambda z: complex(flip * (z.real + shift), 35 - z.imag) * unit + complex(side / 2, sky))
    turn, x, y, grow = rng.choice((-1, 1)), rng.uniform(46, 54), rng.uniform(-2, 4), SIZES[main['size']][0]
    spots = RELATIONS[main['relation']][2] if others else SPOTS[main['count']]
    for thing, (dx, dy, extent) in zip(others + [main] * main['count'], spots, strict=True):
        grounded = thing['kind'] not in FLYERS and (thing is not main or main['relation'] != 'on')
        height = y + (dy if others or grounded else 17 + 1.3 * dy)
        draw_thing(image, thing, x + turn * dx + rng.uniform(-2, 2), height, extent * grow, rng, grounded)
    return image.reduce(DETAIL)


def make_scene(seed, split, index):
    """Return what image number `index` of `split` shows: the key `scene` of the module's docstring."""
    rng, held_out = Random(f'{seed} {split} {index}'), split == 'test' and index % 4 == 3
    name = rng.choice([name for name, kind in KINDS.items() if kind.colours or not held_out])
    place = rng.choice(KINDS[name].places.split())
    around = [(relation, other) for relation, (_, others, _) in RELATIONS.items() for other in others.split()
              if other != name and place in KINDS[other].places.split() and (relation == 'above') == (name in FLYERS)
              and (relation != 'on' or name in PERCHING)]
    count = rng.choices((1, 2, 3, 4), (68, 12, 10, 10))[0]
    relations = [*dict(around)] + ['on'] * 3 * (name in PERCHING)   # few things can, so they do it often
    relation = rng.choice(relations) if relations and count == 1 and rng.random() < .6 else None
    size, objects = rng.choice([*SIZES]) if count == 1 and not relation else 'medium', []
    for kind in (name, *rng.sample([other for r, other in around if r == relation], bool(relation))):
        *seen, last = KINDS[kind].colours.split() or [None, None]
        objects.append(dict(kind=kind, nouns=KINDS[kind].nouns.split(), size=size, count=count, relation=relation,
                            colour=rng.choice([last] if held_out and not objects else seen)))
        relation = None     # it is the main thing's
    return dict(place=place, held_out=held_out, objects=objects)


def _phrase(thing, colour, rng):
    """Name a thing as a person would: two big red balls, a boy in blue."""
    nouns = thing['nouns'][thing['count'] > 1::2]   # singular and plural by turns, the usual one first
    words = [rng.choice(some.split(', ')) for some in (COUNTS[thing['count']], SIZES[thing['size']][1])]
    words += [colour, rng.choice(nouns + nouns[:1])]
    if colour and thing['kind'] in ('boy', 'girl', 'man', 'woman'):
        words[2:] = words[3], rng.choice(('in', 'wearing', 'dressed in')), colour
    return ' '.join(words)


def make_captions(scene, rng):
    """Return five different captions of `scene`; one of them may leave out the colour of the main thing."""
    (main, *others), phrases = scene['objects'], PLACES[scene['place']].phrases.split(', ')
    if main['kind'] in FLYERS and scene['place'] not in ('night', 'room'):
        phrases = [f'over the {scene["place"]}', f'in the sky over the {scene["place"]}']
    many, captions, plain = main['count'] > 1, {}, rng.randrange(10)
    while len(captions) < 5:
        verb = rng.choice(KINDS[main['kind']].acts.split() if main['relation'] != 'on' else ['sit'])
        verb, _, what = verb.partition(':')
        ing = dict(run='running', swim='swimming', sit='sitting', lie='lying').get(verb, verb.rstrip('e') + 'ing')
        does, what = verb if many else verb.replace('fly', 'flie') + 's', what and (f'{what}s' if many else f'a {what}')
        near = f'{rng.choice(WORDS["relation"][main["relation"]])} {_phrase(others[0], "", rng)}' if others else ''
        text = rng.choice(PATTERNS).format(
            s=_phrase(main, len(captions) != plain and main['colour'] or '', rng), be='are' if many else 'is',
            ing=f'{ing} {what}', does=f'{does} {what}', rel=near, place=rng.choice(phrases + [''] * 3 * len(others)))
        text = re.sub(r'\ba(?= [aeiou])', 'an', ' '.join(text.split()))
        captions.setdefault(text, (text.capitalize() if rng.random() < .7 else text) + rng.choice(('.', '.', ' .', '')))
    return [*captions.values()]


def _make(job):
    """Draw one image into its file with random numbers of its own, so that it does not matter which process does it."""
    file, seed, size, split, index = job
    scene = make_scene(seed, split, index)
    draw_scene(scene, size, Random(f'{seed} {split} {index} picture')).save(file, quality=90)
    return scene, make_captions(scene, Random(f'{seed} {split} {index} captions'))


def draw_scenes(output='data/scenes', train=2000, val=400, test=400, seed=0, size=256, workers=None):
    """Draw the data set into `<output>/cocoapi`, unless it is there already, and return `output` as a Path.

    train, val, test: numbers of images; size: their side in pixels; workers: processes (None: one a core), which do not
    change a byte. Raises ValueError for impossible numbers and if anything else is in the folder: nothing is replaced.
    """
    settings = dict(version=VERSION, train=train, val=val, test=test, seed=seed, size=size)
    if min(train, val, test, size // 32) < 1:
        raise ValueError(f'cannot draw {settings}: expected an image or more in each split, and a size of 32 or more')
    final = Path(output, 'cocoapi')
    if final.exists():
        file = final / 'annotations/captions_test2014.json'
        if not file.exists() or json.loads(file.read_text()).get('info', {}).get('scenes') != settings:
            raise ValueError(f'{final} holds other data than {settings}: choose another --output or remove that folder')
        return Path(output)    # they are there already
    Path(output).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.drawing-', dir=output) as aside:  # what is half drawn never looks whole
        folder, number = Path(aside, 'cocoapi'), 0
        (folder / 'annotations').mkdir(parents=True)
        for split in ('train', 'val', 'test'):
            (folder / f'images/{split}2014').mkdir(parents=True)
            names = [f'COCO_{split}2014_{number + i + 1:012d}.jpg' for i in range(settings[split])]
            jobs = [(folder / f'images/{split}2014' / name, seed, size, split, i) for i, name in enumerate(names)]
            made = process_map(_make, jobs, max_workers=workers, chunksize=1, tqdm_class=tqdm, desc=split)
            content = dict(info=dict(scenes=settings, words=WORDS), licenses=[], images=[], annotations=[])
            for name, (scene, texts) in zip(names, made, strict=True):
                number += 1
                content['images'].append(dict(id=number, file_name=name, width=size, height=size, scene=scene))
                content['annotations'] += [dict(id=5 * number + i, image_id=number, caption=texts[i]) for i in range(5)]
            (folder / f'annotations/captions_{split}2014.json').write_text(json.dumps(content))
        del content['annotations']      # of test, the last split
        (folder / 'annotations/image_info_test2014.json').write_text(json.dumps(content))
        folder.rename(final)
    return Path(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, parameter in inspect.signature(draw_scenes).parameters.items():
        parser.add_argument(f'--{name}', default=parameter.default, type=str if name == 'output' else int)
    print(f'scenes are in {draw_scenes(**vars(parser.parse_args()))}/cocoapi')


if __name__ == '__main__':
    run_main(main)
