"""Regions cover the mask they come from, their areas agree with geodesy's figures, and GeoJSON holds them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin

from segdiff.inference.objects import feature, find_objects, open_geojson

masks = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def ring_area(geometry: dict) -> float:
    """Signed area of a polygon by the shoelace formula: outline and holes together."""
    total = 0.0
    for ring in geometry["coordinates"]:
        x, y = np.array(ring).T
        total += (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
    return total


def components(mask: np.ndarray) -> set[tuple[int, frozenset]]:
    """8-connected regions of one class by flood filling, written independently of the module."""
    left = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}
    found = set()
    while left:
        stack = [left.pop()]
        region = set(stack)
        while stack:
            r, c = stack.pop()
            for near in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left and mask[near] == mask[r, c]:
                    left.remove(near)
                    region.add(near)
                    stack.append(near)
        found.add((int(mask[next(iter(region))]), frozenset(region)))
    return found


@given(masks)
def test_each_polygon_rasterizes_back_to_one_region_of_the_mask(mask: np.ndarray):
    regions = find_objects(mask, None)
    found = set()
    for region in regions:
        drawn = rasterize([region.geometry], mask.shape)
        found.add((region.class_index, frozenset((int(r), int(c)) for r, c in zip(*np.nonzero(drawn), strict=True))))
        assert region.area_pixels == drawn.sum() == region.area == abs(ring_area(region.geometry))
        assert region.area_unit == "px"
    assert found == components(mask)
    assert len(regions) == len(found)


def test_score_is_the_mean_probability_of_the_region():
    mask = np.zeros((6, 6), np.uint8)
    mask[0, :2] = 1
    mask[3:5, 3:5] = 2
    probability = np.random.default_rng(0).random((6, 6), np.float32)
    first, second = find_objects(mask, probability)
    assert (first.class_index, second.class_index) == (1, 2)
    assert first.score == pytest.approx(probability[0, :2].mean())
    assert second.score == pytest.approx(probability[3:5, 3:5].mean())
    assert find_objects(mask, None)[0].score is None
    assert find_objects(np.zeros((6, 6), np.uint8), probability) == []


def test_pixel_geometry_is_corners_with_x_right_and_y_down_and_holes_kept():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 10:13] = 1
    mask[3, 11] = 0
    (region,) = find_objects(mask, None)
    outline, hole = region.geometry["coordinates"]
    assert {tuple(point) for point in outline} == {(10, 2), (13, 2), (13, 5), (10, 5)}
    assert {tuple(point) for point in hole} == {(11, 3), (12, 3), (12, 4), (11, 4)}
    assert region.area_pixels == 8


def test_wrong_masks_and_probabilities_are_refused():
    with pytest.raises(ValueError, match="uint8 H x W, not float32"):
        find_objects(np.zeros((3, 3), np.float32), None)
    with pytest.raises(ValueError, match=r"\(3, 4\) and the mask \(3, 3\)"):
        find_objects(np.zeros((3, 3), np.uint8), np.zeros((3, 4), np.float32))


@pytest.mark.parametrize(("crs", "factor"), [("EPSG:32633", 1.0), ("EPSG:2263", 1200 / 3937)])
def test_projected_areas_are_in_square_metres_of_the_map_plane(crs: str, factor: float):
    mask = np.zeros((30, 30), np.uint8)
    mask[3:7, 2:12] = 1
    mask[20, 20] = 1
    transform = from_origin(500000, 60000, 0.5, 0.5)
    first, second = find_objects(mask, None, transform=transform, crs=crs)
    assert first.area == pytest.approx(40 * 0.25 * factor**2)
    assert second.area == pytest.approx(0.25 * factor**2)
    assert (first.area_pixels, first.area_unit) == (40, "m2")
    assert find_objects(mask, None, transform=tuple(transform)[:6], crs=crs) == [first, second]


def test_georeferenced_geometry_is_longitude_and_latitude_counterclockwise():
    """Zone 33's central meridian is 15 degrees east, and 500 km of easting lie on it."""
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0] = 1
    (region,) = find_objects(mask, None, transform=from_origin(500000, 0, 10, 10), crs="EPSG:32633")
    points = np.array(region.geometry["coordinates"][0])
    assert points.min(0) == pytest.approx([15.0, -10 / 110574 / 0.9996], abs=1e-7)
    assert points.max(0) == pytest.approx([15.0 + 10 / 111320 / 0.9996, 0.0], abs=1e-7)
    assert ring_area(region.geometry) > 0, "RFC 7946: outlines run counterclockwise"


def ellipsoid_area(south: float, north: float, width: float) -> float:
    """Square metres between two parallels over `width` degrees: the area element M N cos(latitude), by quadrature."""
    a, f = 6378137.0, 1 / 298.257223563
    e2 = f * (2 - f)
    points, weights = np.polynomial.legendre.leggauss(20)
    latitude = np.radians((south + north) / 2 + (north - south) / 2 * points)
    meridional = a * (1 - e2) / (1 - e2 * np.sin(latitude) ** 2) ** 1.5
    normal = a / np.sqrt(1 - e2 * np.sin(latitude) ** 2)
    element = (weights * meridional * normal * np.cos(latitude)).sum()
    return math.radians(width) * math.radians(north - south) / 2 * element


@pytest.mark.parametrize("latitude", [0.0, 60.0, -33.5])
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_geographic_areas_agree_with_the_ellipsoids_area_element(latitude: float, size: float):
    mask = np.array([[1, 1, 0], [0, 1, 0]], np.uint8)
    (region,) = find_objects(mask, None, transform=from_origin(10, latitude, size, size), crs="EPSG:4326")
    expected = ellipsoid_area(latitude - size, latitude, 2 * size) + ellipsoid_area(
        latitude - 2 * size, latitude - size, size
    )
    assert region.area == pytest.approx(expected, rel=1e-6)
    assert region.area_unit == "m2"


def test_the_whole_earth_has_its_published_surface():
    """From the authalic radius of the WGS84 ellipsoid that NIMA TR8350.2 publishes: 6371007.1809 m."""
    mask = np.ones((18, 36), np.uint8)
    (region,) = find_objects(mask, None, transform=from_origin(-180, 90, 10, 10), crs="EPSG:4326")
    assert region.area == pytest.approx(4 * math.pi * 6371007.1809**2, rel=1e-9)


def test_a_turned_geographic_grid_has_the_area_of_the_straight_one():
    mask = np.ones((50, 50), np.uint8)
    straight = from_origin(10, 60, 1e-4, 1e-4)
    turned = Affine(0.0, 1e-4, 10.0, 1e-4, 0.0, 60.0)  # rows run east, columns north
    places = (straight, turned)
    areas = [find_objects(mask, None, transform=place, crs="EPSG:4326")[0].area for place in places]
    (region,) = find_objects(mask, None, transform=turned, crs="EPSG:4326")
    north = max(point[1] for point in region.geometry["coordinates"][0])
    assert areas[1] == pytest.approx(ellipsoid_area(north - 0.005, north, 0.005), rel=1e-7)
    assert areas[0] == pytest.approx(ellipsoid_area(60 - 0.005, 60, 0.005), rel=1e-7)


def test_crs_objects_and_text_are_taken_alike():
    mask = np.ones((3, 3), np.uint8)
    transform = from_origin(500000, 0, 10, 10)
    crs = CRS.from_epsg(32633)
    by_object = find_objects(mask, None, transform=transform, crs=crs)
    assert by_object == find_objects(mask, None, transform=transform, crs=crs.to_wkt())


def test_a_grid_with_an_unnamed_crs_counts_as_pixels():
    (region,) = find_objects(np.ones((2, 2), np.uint8), None, transform=from_origin(500, 500, 10, 10), crs="")
    assert (region.area, region.area_unit) == (4, "px")
    assert np.max(region.geometry["coordinates"]) == 2


def test_a_crs_without_a_place_on_the_earth_is_refused():
    local = 'LOCAL_CS["bench",UNIT["metre",1]]'
    with pytest.raises(ValueError, match=r"bench.* neither geographic nor projected"):
        find_objects(np.ones((2, 2), np.uint8), None, transform=from_origin(0, 0, 1, 1), crs=local)


def write_geojson(path: Path, features) -> None:
    with open_geojson(path) as add:
        for item in features:
            add(item)


def test_geojson_holds_every_feature_with_its_properties(tmp_path: Path):
    mask = np.zeros((6, 6), np.uint8)
    mask[0, :2] = 1
    mask[3:5, 3:5] = 2
    names = ["background", "open", "Lücke"]
    regions = find_objects(mask, np.full((6, 6), 0.25, np.float32))
    path = tmp_path / "objects.geojson"
    write_geojson(path, (feature(region, pair="x", class_name=names[region.class_index]) for region in regions))
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert [item["type"] for item in collection["features"]] == ["Feature", "Feature"]
    assert collection["features"][1]["properties"] == {
        "pair": "x",
        "class": 2,
        "class_name": "Lücke",
        "score": 0.25,
        "area": 4.0,
        "area_unit": "px",
    }
    assert abs(ring_area(collection["features"][1]["geometry"])) == 4
    write_geojson(path, [])
    assert json.loads(path.read_text(encoding="utf-8")) == {"type": "FeatureCollection", "features": []}
    assert list(tmp_path.iterdir()) == [path]


def test_geojson_is_written_as_features_come_and_appears_whole(tmp_path: Path):
    path = tmp_path / "objects.geojson"
    item = {"type": "Feature", "properties": {"text": "x" * 100_000}, "geometry": None}

    def write_and_stop() -> None:
        with open_geojson(path) as add:
            add(item)
            assert not path.exists()
            assert [file.stat().st_size > 90_000 for file in tmp_path.iterdir()] == [True], "held in memory"
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_and_stop()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="JSON"):
        write_geojson(path, [{"type": "Feature", "properties": {"score": float("nan")}, "geometry": None}])
    assert list(tmp_path.iterdir()) == []
