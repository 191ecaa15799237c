"""Draw miniature data sets in the layout and the file types of the published ones."""

from pathlib import Path

import cv2
import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from data_pipelines.published.oscd import BANDS


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth, so that it is small as a file, and unlike any other: H x W x 3 uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 32 + 2, width // 32 + 2, 3), np.uint8)
    return np.ascontiguousarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST))


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """H x W uint8 of 0 and 1."""
    row, column = np.random.default_rng(seed).integers(0, (height // 2, width // 2))
    mask = np.zeros((height, width), np.uint8)
    mask[row : row + height // 3, column : column + width // 3] = 1
    return mask


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def save_tiff(path: Path, bands: np.ndarray, **options: object) -> None:
    """bands x H x W."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype, **options}
    with rasterio.open(path, "w", **profile) as target:
        target.write(bands)


def levir_cd(src: Path, splits: tuple[str, ...] = ("train", "val", "test"), size: tuple[int, int] = (512, 256)) -> None:
    for seed, split in enumerate(splits):
        for role, pixels in (
            ("A", picture(*size, 10 * seed)),
            ("B", picture(*size, 10 * seed + 1)),
            ("label", blob(*size, seed) * 255),
        ):
            save(src / split / role / f"{split}_1.png", np.asarray(pixels))


def whu_cd(src: Path) -> None:
    """600 x 300 and 300 x 300 pixels, height 300, of 21243 and 11265 x 15354; labels 0/1."""
    base = src / "Building change detection dataset_add" / "1. The two-period image data"
    ground = {"crs": "EPSG:2193", "photometric": "RGB"}
    for seed, (split, width, left) in enumerate((("train", 600, 1560160.0), ("test", 300, 1564408.4))):
        for year, top in (("2012", 5179409.2), ("2016", 5179409.25)):
            image = picture(300, width, int(year) + seed).transpose(2, 0, 1)
            grid = from_origin(left, top, 0.2, 0.2)
            whole = base / year / "whole_image" / split
            save_tiff(whole / "image" / f"{year}_{split}.tif", image, transform=grid, **ground)
            save_tiff(whole / "label" / f"{year}_{split}.tif", image[:1], transform=grid, crs="EPSG:2193")
            save_tiff(base / year / "splited_images" / split / "image" / "0_0.tif", image[:, :64, :64])
        save_tiff(base / "change_label" / split / "change_label.tif", blob(300, width, seed)[None])


def dsifn(src: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        for name in ("0", "1"):
            seed += 10
            save(src / split / "t1" / f"{name}.jpg", picture(96, 96, seed))
            save(src / split / "t2" / f"{name}.jpg", picture(96, 96, seed + 1))
            mask = blob(96, 96, seed)
            if split == "test":
                save_tiff(src / split / "mask" / f"{name}.tif", mask[None] * np.uint8(255))
            else:
                save(src / split / "mask" / f"{name}.png", mask)
                save(src / split / "mask_256" / f"{name}.png", mask[::2, ::2])


def clcd(src: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        for role, pixels in (
            ("time1", picture(96, 96, 2 * seed)),
            ("time2", picture(96, 96, 2 * seed + 1)),
            ("label", blob(96, 96, seed) * np.uint8(255)),
        ):
            save(src / "CLCD" / split / role / "00000.png", pixels)


OSCD_CITIES = {"train": ("bercy", "beirut"), "test": ("dubai",)}


def oscd(src: Path) -> None:
    name = "Onera Satellite Change Detection dataset - "
    for split, cities in OSCD_CITIES.items():
        listed = src / f"{name}Images" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(",".join(cities))
        for city in cities:
            size = (70, 90) if city == "beirut" else (64, 64)
            rng = np.random.default_rng(len(city))
            for date in (1, 2):
                for index, band in enumerate(BANDS):
                    pixels = rng.integers(100 * index + 50, 100 * index + 350, size).astype(np.uint16)
                    pixels[:2] = 0
                    save_tiff(src / f"{name}Images" / city / f"imgs_{date}_rect" / f"{band}.tif", pixels[None])
            changed = blob(*size, len(city))
            labels = src / f"{name}{split.title()} Labels" / city / "cm"
            save_tiff(labels / f"{city}-cm.tif", changed[None] + np.uint8(1))
            save(labels / "cm.png", changed * np.uint8(255))


def air_change(src: Path, pairs: tuple[str, ...] = ("Szada/1", "Szada/2", "Tiszadob/3", "Archive/1")) -> None:
    for seed, pair in enumerate(pairs):
        folder = src / "SZTAKI_AirChange_Benchmark" / pair
        ending = ".bmp" if seed % 2 else ".BMP"
        save(folder / f"im1{ending}", picture(640, 952, 3 * seed))
        save(folder / "im2.bmp", picture(640, 952, 3 * seed + 1))
        save(folder / f"gt{ending}", blob(640, 952, seed) * np.uint8(255))


def deeppcb(src: Path) -> None:
    """A board of 96 x 96 a split: a copper square in the template, a bite and a spur of it in the board."""
    base = src / "DeepPCB" / "PCBData"
    for split, name in (("trainval", "20085000"), ("test", "12000001")):
        group = base / f"group{name[:5]}"
        template = np.zeros((96, 96), np.uint8)
        template[32:64, 32:64] = 255
        board = template.copy()
        board[32:40, 40:48] = 0
        board[48:56, 64:72] = 255
        save(group / name[:5] / f"{name}_temp.jpg", template, quality=95)
        save(group / name[:5] / f"{name}_test.jpg", board, quality=95)
        (group / f"{name[:5]}_not").mkdir()
        (group / f"{name[:5]}_not" / f"{name}.txt").write_text("36 28 52 44 3\n60 44 76 60 4\n")
        line = f"group{name[:5]}/{name[:5]}/{name}.jpg group{name[:5]}/{name[:5]}_not/{name}.txt"
        (base / f"{split}.txt").write_text(line + "\n")


DRAW = {
    "levir_cd": levir_cd,
    "whu_cd": whu_cd,
    "dsifn": dsifn,
    "clcd": clcd,
    "oscd": oscd,
    "air_change": air_change,
    "deeppcb": deeppcb,
}
