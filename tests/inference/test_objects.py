"""Regions cover the mask they come from, their areas agree with geodesy's figures, and GeoJSON holds them."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform as warp_points
from rasterio.warp import transform_geom
from shapely.geometry import shape

from segdiff.inference import objects
from segdiff.inference.objects import Region, RegionTracer, feature, find_objects, open_geojson
from segdiff.inference.places import find_place
from segdiff.inference.postprocessing import postprocess
from segdiff.inference.runs import encode_slab
from segdiff.model_files import PostProcessing
from tests.inference.regions import CORNERS, EDGES, components, cuts, masks, processed, slabs

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = {
    "pixels": (None, None),
    "projected": (from_origin(500000, 60000, 0.5, 0.5), "EPSG:32633"),
    "geographic": (from_origin(10, 60, 1e-4, 1e-4), "EPSG:4326"),
    "turned": (Affine(2e-5, 1e-4, 10.0, 1e-4, -2e-5, 60.0), "EPSG:4326"),
}


def ring_area(geometry: dict) -> float:
    """Signed area of a polygon by the shoelace formula: outline and holes together."""
    total = 0.0
    for ring in geometry["coordinates"]:
        x, y = np.array(ring).T
        total += (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2
    return total


def trace(stream, place: str) -> list[Region]:
    tracer = RegionTracer(find_place(*PLACES[place]))
    found = [region for slab in stream for region in tracer.add(encode_slab(slab))]
    return [*found, *tracer.finish()]


@given(masks)
def test_each_geometry_is_the_outline_of_one_region_of_the_mask(mask: np.ndarray):
    expected = components(mask, CORNERS)
    regions = find_objects(mask, None)
    assert [region.class_index for region in regions] == sorted(int(mask[min(pixels)]) for pixels in expected)
    found = []
    for region in regions:
        drawn = rasterize([region.geometry], mask.shape)
        pixels = {(int(r), int(c)) for r, c in zip(*np.nonzero(drawn), strict=True)}
        found.append(pixels)
        assert region.first_pixel == min(pixels)
        assert region.area_pixels == len(pixels) == region.area
        assert region.area_unit == "px"
        outline = shape(region.geometry)
        assert outline.is_valid, shapely.is_valid_reason(outline)
        assert outline.area == len(pixels)
        parts = len(components(drawn, EDGES))
        assert region.geometry["type"] == ("Polygon" if parts == 1 else "MultiPolygon")
        assert len(region.polygons) == parts
        assert all(shapely.is_ccw(shapely.LinearRing(polygon[0])) for polygon in region.polygons)
        assert not any(shapely.is_ccw(shapely.LinearRing(hole)) for polygon in region.polygons for hole in polygon[1:])
    assert sorted(found, key=min) == expected


@given(masks, cuts, st.sampled_from(list(PLACES)), st.integers(0, 2**32 - 1))
def test_any_cutting_into_slabs_gives_the_same_regions(mask: np.ndarray, cut: list[int], place: str, seed: int):
    probability = np.random.default_rng(seed).random(mask.shape, np.float32)
    transform, crs = PLACES[place]
    whole = find_objects(mask, probability, transform=transform, crs=crs)
    regions = trace(slabs(mask, cut, probability), place)
    ends = [max(r for r, _ in pixels) for pixels in components(mask, CORNERS)]
    firsts = [min(pixels) for pixels in components(mask, CORNERS)]
    assert [region.first_pixel for region in regions] == [first for _, first in sorted(zip(ends, firsts, strict=True))]
    regions.sort(key=lambda region: (region.class_index, region.first_pixel))
    for region, other in zip(regions, whole, strict=True):
        assert replace(region, score=None, area=0) == replace(other, score=None, area=0)
        assert region.score == pytest.approx(other.score, rel=1e-12)
        assert region.area == pytest.approx(other.area, rel=1e-12)
        for polygon, same in zip(region.polygons, other.polygons, strict=True):
            assert all(np.array_equal(*rings) for rings in zip(polygon, same, strict=True))


@given(masks, st.sampled_from(list(PLACES)))
def test_polygons_are_the_pixels_in_the_masks_own_crs(mask: np.ndarray, place: str):
    transform, crs = PLACES[place]
    for region in find_objects(mask, None, transform=transform, crs=crs):
        outline = shapely.MultiPolygon([shapely.Polygon(rings[0], rings[1:]) for rings in region.polygons])
        drawn = rasterize([outline], mask.shape, transform=transform or Affine.identity())
        rows, columns = np.nonzero(drawn)
        (match,) = [pixels for pixels in components(mask, CORNERS) if region.first_pixel in pixels]
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == match


def comb(pairs: int) -> np.ndarray:
    """Teeth that are joined two and two, each pair at another row, and all of them at the last row."""
    mask = np.zeros((2 * pairs, 4 * pairs), np.uint8)
    mask[:, ::2] = 1
    for k in range(pairs):
        mask[-1 - k, 4 * k : 4 * k + 3] = 1
    mask[-1] = 1
    return mask


@pytest.mark.parametrize("mask", [comb(4), comb(4)[::-1], comb(4).T, comb(4).T[:, ::-1]])
def test_parts_that_join_far_down_are_one_polygon(mask: np.ndarray):
    """Each row a slab: what was parted above is linked, and linked again, below."""
    (whole,) = find_objects(mask, None)
    (region,) = trace(slabs(mask, list(range(len(mask)))), "pixels")
    assert region.geometry == whole.geometry
    assert region.geometry["type"] == "Polygon"
    assert shape(region.geometry).area == np.count_nonzero(mask)


@pytest.mark.parametrize("density", [0.3, 0.55, 0.75])
def test_long_outlines_and_many_regions_do_not_depend_on_slabs_or_blocks(density: float, monkeypatch):
    mask = (np.random.default_rng(0).random((80, 90)) < density).astype(np.uint8)
    whole = find_objects(mask, None)
    assert sum(region.area_pixels for region in whole) == np.count_nonzero(mask)
    assert all(shape(region.geometry).is_valid for region in whole)
    monkeypatch.setattr(objects, "_CORNERS_AT_ONCE", 10)
    for cut in ([], list(range(80)), [7, 30, 31]):
        assert sorted(trace(slabs(mask, cut), "pixels"), key=lambda region: region.first_pixel) == whole


@given(masks, cuts, st.integers(0, 3), st.integers(0, 9), st.booleans())
def test_regions_are_those_of_the_mask_after_post_processing(mask, cut, closing, fill_holes, vote):
    kind = PostProcessing(closing=closing, fill_holes=fill_holes, vote=vote, minimum_area=3)
    probability = np.random.default_rng(0).random(mask.shape, np.float32)
    expected = find_objects(processed(mask, kind), probability)
    tracer = RegionTracer(None)
    stream = postprocess(slabs(mask, cut, probability), kind, classes=4)
    regions = [region for runs in stream for region in tracer.add(runs)]
    regions += tracer.finish()
    regions.sort(key=lambda region: (region.class_index, region.first_pixel))
    assert [replace(region, score=None) for region in regions] == [replace(region, score=None) for region in expected]
    assert [region.score for region in regions] == pytest.approx([region.score for region in expected], rel=1e-5)


def test_areas_are_those_of_the_single_pixels():
    rows, start, stop = np.array([0, 1, 1, 5]), np.array([3, 0, 4, 2]), np.array([7, 2, 5, 12])
    for transform, crs in (PLACES[name] for name in ("projected", "geographic", "turned")):
        areas = find_place(transform, crs).areas(rows, start, stop)
        for row, first, past, area in zip(rows, start, stop, areas, strict=True):
            moved = [find_place(transform @ Affine.translation(column, row), crs) for column in range(first, past)]
            single = [place.areas(np.array([0]), np.array([0]), np.array([1]))[0] for place in moved]
            assert area == pytest.approx(sum(single), rel=1e-9)


def test_a_region_is_given_where_it_ends():
    mask = np.array([[1, 0, 2], [1, 0, 0], [0, 0, 3]], np.uint8)
    tracer = RegionTracer(None)
    given = [[region.class_index for region in tracer.add(encode_slab(slab))] for slab in slabs(mask, [1, 2])]
    assert given == [[], [2], [1]]
    assert [region.class_index for region in tracer.finish()] == [3]
    assert list(tracer.finish()) == []


def test_the_probability_of_classes_is_that_of_any_change():
    probability = np.zeros((1, 2, 3), np.float32)
    probability[0, :, 0] = 0.25, 0.5
    (region,) = trace(slabs(np.array([[2, 2]], np.uint8), [], probability), "pixels")
    assert region.score == pytest.approx(0.625)


def test_a_probability_that_is_no_number_is_not_hidden():
    probability = np.array([[0.5, np.nan, 0.5]], np.float32)
    first, second = find_objects(np.array([[1, 0, 1]], np.uint8), probability)
    assert first.score == second.score == 0.5
    (whole,) = find_objects(np.array([[1, 1, 1]], np.uint8), probability)
    assert math.isnan(whole.score)


def test_parts_that_touch_by_a_corner_make_a_multipolygon_and_holes_may_touch_the_outline():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 1, 1, 1], [1, 0, 0, 0]], np.uint8)
    (region,) = find_objects(mask, None)
    assert region.geometry == {
        "type": "MultiPolygon",
        "coordinates": [
            [
                [[0, 0], [3, 0], [3, 2], [4, 2], [4, 4], [1, 4], [1, 3], [0, 3], [0, 0]],
                [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]],
                [[2, 2], [2, 3], [3, 3], [3, 2], [2, 2]],
            ],
            [[[0, 4], [1, 4], [1, 5], [0, 5], [0, 4]]],
        ],
    }


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


@pytest.mark.parametrize(("crs", "x", "y"), [("EPSG:3857", 1113194.9, 8399737.9), ("EPSG:3395", 1113194.9, 8362698.5)])
@pytest.mark.parametrize("size", [1.0, 0.05, 5000.0])
def test_areas_on_a_mercators_plane_are_those_on_the_ground(crs: str, x: float, y: float, size: float):
    mask = np.array([[1, 1, 0], [0, 1, 0]], np.uint8)
    (region,) = find_objects(mask, None, transform=from_origin(x, y, size, size), crs=crs)
    to_degrees = partial(warp_points, crs, "EPSG:4326")
    (west, east), _ = to_degrees([x, x + size], [y, y])
    _, (upper, middle, lower) = to_degrees([x] * 3, [y, y - size, y - 2 * size])
    width = east - west
    expected = ellipsoid_area(middle, upper, 2 * width) + ellipsoid_area(lower, middle, width)
    assert region.area == pytest.approx(expected, rel=1e-6)
    assert region.area < 0.26 * 3 * size**2
    turned = Affine(0.0, size, x, size, 0.0, y - 2 * size)
    (other,) = find_objects(np.ascontiguousarray(mask.T[:, ::-1]), None, transform=turned, crs=crs)
    assert other.area == pytest.approx(region.area, rel=1e-6)


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


def over_antimeridian(size: int) -> tuple[Affine, str]:
    """A grid of 100 m whose columns lie on both sides of 180 degrees, near 10 degrees north."""
    return from_origin(171071 - 50 * size, 1106908, 100, 100), "EPSG:32601"


def test_regions_over_the_antimeridian_are_cut_there_and_others_left_alone():
    mask = np.zeros((6, 20), np.uint8)
    mask[0, 2] = mask[2:4, 5:15] = mask[5, 18] = 1
    transform, crs = over_antimeridian(20)
    west, across, east = find_objects(mask, None, transform=transform, crs=crs)
    assert west.geometry["type"] == east.geometry["type"] == "Polygon"
    assert shape(west.geometry).bounds[0] > 179.9
    assert shape(east.geometry).bounds[2] < -179.9
    assert across.geometry["type"] == "MultiPolygon"
    halves = [shape({"type": "Polygon", "coordinates": rings}) for rings in across.geometry["coordinates"]]
    assert sorted(half.bounds[0] > 0 for half in halves) == [False, True]
    assert sum(half.bounds[2] - half.bounds[0] for half in halves) < 0.02
    assert len(across.polygons) == 1


@given(masks)
def test_longitudes_and_latitudes_are_those_of_gdal(mask: np.ndarray):
    transform, crs = PLACES["projected"]
    for region in find_objects(mask, None, transform=transform, crs=crs):
        polygons = [[ring.tolist() for ring in polygon] for polygon in region.polygons]
        moved = transform_geom(crs, "EPSG:4326", {"type": "MultiPolygon", "coordinates": polygons}, precision=9)
        ours = region.geometry["coordinates"]
        ours = [ours] if region.geometry["type"] == "Polygon" else ours
        for polygon, other in zip(ours, moved["coordinates"], strict=True):
            for ring, points in zip(polygon, other, strict=True):
                assert np.abs(np.array(ring) - np.array(points)).max() < 2e-9


def test_a_mask_that_its_crs_cannot_place_is_refused():
    far = from_origin(5e7, 5e7, 10, 10)
    with pytest.raises(ValueError, match=r"WGS 84 / UTM zone 33N.* cannot place the mask on the earth"):
        find_objects(np.ones((2, 2), np.uint8), None, transform=far, crs="EPSG:32633")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "most"), [("blobs", 350), ("blobs, all steps", 450), ("noise, minimum area 20", 900), ("snake", 600)]
)
def test_a_mask_of_400_megapixels_takes_the_memory_of_a_slab(case: str, most: float):
    """Held whole, mask and probabilities alone are 1,900 MB. The snake's outline is held: it is one region."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_regions", case]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["megapixels"] == 400
    assert measured["regions"] == 1 if case == "snake" else measured["regions"] > 1000
    assert measured["peak_mb"] < most


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
