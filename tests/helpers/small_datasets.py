"""Small files in the formats of the real data sets."""

import json
import struct

import numpy as np
from PIL import Image


def write_image(file, colour=(120, 60, 30), side=8):
    """An image of one colour; the ending names the format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(file, lossless=True, quality=100)
    return file


def write_idx(file, array):
    """The format of MNIST's files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.tobytes())


def write_mnist(root, name="MNIST"):
    """Five training and two test images; returns all pixels and labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([5, 0, 4, 1, 9, 7, 2], np.uint8)
    for prefix, rows in (("train", slice(5)), ("t10k", slice(5, 7))):
        write_idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte", pixels[rows])
        write_idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte", labels[rows])
    return pixels, labels.tolist()


def write_celeba(root):
    """Four photographs, the size of the real ones, with three attributes."""
    folder = root / "celeba"
    rows = ["-1 -1  1", " 1 -1 -1", "-1  1  1", "-1 -1 -1"]
    names = [f"{number:06d}.jpg" for number in range(1, 5)]
    (folder / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(names):
        image = Image.new("RGB", (178, 218), (60 * number, 0, 0))
        image.save(folder / "img_align_celeba" / name)
    lines = [f"{name} {row} " for name, row in zip(names, rows, strict=True)]
    table = "\n".join(["4", "Bald Eyeglasses Smiling ", *lines, ""])
    (folder / "list_attr_celeba.txt").write_text(table)
    parts = "".join(f"{name} {part}\n" for name, part in zip(names, (0, 0, 1, 2), strict=True))
    (folder / "list_eval_partition.txt").write_text(parts)


def write_emoji(root):
    """The layout of emoji-datasource, with one skin tone and one emoji that the vendor lacks."""
    tone = {"1F3FB": {"image": "1f385-1f3fb.png", "has_img_google": True}}
    table = [
        _emoji("1f634", "Smileys & Emotion", "face-sleepy"),
        _emoji("1f600", "Smileys & Emotion", "face-smiling"),
        {**_emoji("1f385", "People & Body", "person-fantasy"), "skin_variations": tone},
        {**_emoji("2764", "Smileys & Emotion", "heart"), "has_img_google": False},
    ]
    folder = root / "img" / "google" / "64"
    folder.mkdir(parents=True)
    (root / "emoji.json").write_text(json.dumps(table))
    for name in ("1f634", "1f600", "1f385", "1f385-1f3fb"):
        image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        image.paste((250, 200, 0, 255), (16, 16, 48, 48))
        image.save(folder / f"{name}.png")


def _emoji(code, category, subcategory):
    return {
        "image": f"{code}.png",
        "category": category,
        "subcategory": subcategory,
        "has_img_google": True,
    }
