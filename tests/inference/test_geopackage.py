"""A GeoPackage is one that GDAL reads: its layers, reference systems, geometries and columns."""

import re
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import from_origin

from segdiff.inference.geopackage import open_geopackage
from segdiff.inference.objects import find_objects
from segdiff.inference.places import find_place

NAMES = ["background", "open", "Lücke"]
EQUAL_AREA = "+proj=laea +lat_0=50 +lon_0=10 +ellps=GRS80 +units=m"
MASK = np.zeros((20, 30), np.uint8)
MASK[2:6, 3:9] = 1
MASK[3, 4] = 0
MASK[6, 9] = 1  # by its corner alone
MASK[10:12, 20:29] = 2


def write(path: Path, *places: tuple) -> list:
    """The regions of MASK at each of the places, written to `path`; the regions of the last one."""
    probability = np.full(MASK.shape, 0.75, np.float32)
    with open_geopackage(path) as package:
        for transform, crs in places:
            add = package.layer(find_place(transform, crs))
            regions = find_objects(MASK, probability, transform=transform, crs=crs)
            for region in regions:
                add(region, pair=f"pair {crs}", class_name=NAMES[region.class_index])
    return regions


def read(path: Path, layer: str = "objects"):
    meta, _, geometries, columns = pyogrio.raw.read(path, layer=layer)
    return meta, shapely.from_wkb(geometries), dict(zip(meta["fields"], columns, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (from_origin(500000, 6000000, 0.5, 0.5), "EPSG:32633"),
        (from_origin(10, 60, 1e-4, 1e-4), "EPSG:4326"),
        (from_origin(300000, 60000, 2, 2), "EPSG:2263"),
        (from_origin(1000, 2000, 10, 10), EQUAL_AREA),
    ],
)
def test_gdal_reads_what_was_written(tmp_path: Path, transform, crs):
    path = tmp_path / "objects.gpkg"
    regions = write(path, (transform, crs))
    assert pyogrio.list_layers(path).tolist() == [["objects", "MultiPolygon"]]
    meta, geometries, columns = read(path)
    assert CRS.from_user_input(meta["crs"]) == CRS.from_user_input(crs)
    assert shapely.is_valid(geometries).all()
    for index, geometry in enumerate(geometries, start=1):
        assert np.array_equal(rasterize([geometry], MASK.shape, transform=transform) == 1, index == MASK)
    assert len(geometries[0].geoms) == 2
    assert list(columns) == ["pair", "class", "class_name", "score", "area", "area_unit"]
    assert columns["pair"].tolist() == [f"pair {crs}"] * 2
    assert columns["class"].tolist() == [1, 2]
    assert columns["class_name"].tolist() == ["open", "Lücke"]
    assert columns["score"].tolist() == [0.75, 0.75]
    assert columns["area"] == pytest.approx([region.area for region in regions])
    assert columns["area_unit"].tolist() == ["m2", "m2"]
    bounds = pyogrio.read_info(path)["total_bounds"]
    assert bounds == pytest.approx(shapely.total_bounds(geometries))
    assert list(tmp_path.iterdir()) == [path]


def test_each_reference_system_has_a_layer(tmp_path: Path):
    path = tmp_path / "objects.gpkg"
    north, south = from_origin(500000, 6000000, 0.5, 0.5), from_origin(500000, 4000000, 0.5, 0.5)
    write(path, (north, "EPSG:32633"), (None, None), (south, EQUAL_AREA), (south, "EPSG:32633"))
    layers = pyogrio.list_layers(path)[:, 0].tolist()
    assert layers == ["objects", "objects_2", "objects_3"]
    assert len(read(path)[1]) == 4
    _, geometries, columns = read(path, "objects_2")
    assert columns["area_unit"].tolist() == ["px", "px"]
    assert shapely.total_bounds(geometries).tolist() == [3, 2, 29, 12]
    assert CRS.from_user_input(read(path, "objects_3")[0]["crs"]) == CRS.from_user_input(EQUAL_AREA)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA application_id").fetchall() == [(int.from_bytes(b"GPKG", "big"),)]
        systems = database.execute("SELECT srs_id FROM gpkg_spatial_ref_sys ORDER BY srs_id").fetchall()
    assert systems == [(-1,), (0,), (4326,), (32633,), (100002,)]


def test_a_reference_system_that_only_resembles_a_known_one_keeps_its_own_definition(tmp_path: Path):
    moved = CRS.from_epsg(32633).to_wkt().replace('"false_easting",500000', '"false_easting",500001')
    moved = re.sub(r",AUTHORITY\[[^\]]*\]", "", moved)
    assert CRS.from_wkt(moved).to_epsg(confidence_threshold=0) == 32633
    path = tmp_path / "objects.gpkg"
    write(path, (from_origin(500000, 6000000, 0.5, 0.5), moved))
    found = CRS.from_user_input(read(path)[0]["crs"])
    assert found == CRS.from_wkt(moved) != CRS.from_epsg(32633)


def test_the_envelope_of_a_geometry_is_its_own(tmp_path: Path):
    """Of minx, maxx, miny, maxy, as the standard orders them: readers find by it what lies in a window."""
    path = tmp_path / "objects.gpkg"
    write(path, (None, None))
    with sqlite3.connect(path) as database:
        blobs = [row[0] for row in database.execute("SELECT geom FROM objects ORDER BY fid")]
    assert [struct.unpack_from("<4d", blob, 8) for blob in blobs] == [(3, 10, 2, 7), (20, 29, 10, 12)]
    _, _, found, _ = pyogrio.raw.read(path, bbox=(18, 9, 22, 11))
    assert shapely.from_wkb(found[0]).bounds == (20, 10, 29, 12)


def test_a_geopackage_without_regions_has_an_empty_layer(tmp_path: Path):
    path = tmp_path / "objects.gpkg"
    with open_geopackage(path):
        pass
    assert pyogrio.read_info(path)["features"] == 0


def test_it_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "objects.gpkg"
    (region, *_) = find_objects(MASK, None)

    def write_and_stop() -> None:
        with open_geopackage(path) as package:
            add = package.layer(None)
            for _ in range(20_000):
                add(region, pair="x", class_name="open")
            (part,) = tmp_path.iterdir()
            assert part != path
            assert part.stat().st_size > 1_000_000, "held in memory"
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_and_stop()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_of_the_file(tmp_path: Path):
    path = tmp_path / "missing" / "objects.gpkg"
    with (
        pytest.raises(OSError, match="cannot be written: unable to open database file") as caught,
        open_geopackage(path),
    ):
        pass
    assert caught.value.filename == str(path)
