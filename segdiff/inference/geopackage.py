"""Regions as a GeoPackage, in the reference system of their mask.

A GeoPackage is an SQLite database whose tables OGC 12-128r17 (version 1.3) prescribes; what is written here are its
clauses 1.1 (base), 2.1 (features) and the geometry blobs of 2.1.3.
"""

import errno
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from segdiff.files import write_whole
from segdiff.inference.objects import Region
from segdiff.inference.places import LONGITUDE_LATITUDE, Place

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA application_id = 1196444487;
PRAGMA user_version = 10300;
CREATE TABLE gpkg_spatial_ref_sys (
    srs_name TEXT NOT NULL,
    srs_id INTEGER PRIMARY KEY,
    organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL,
    definition TEXT NOT NULL,
    description TEXT
);
CREATE TABLE gpkg_contents (
    table_name TEXT NOT NULL PRIMARY KEY,
    data_type TEXT NOT NULL,
    identifier TEXT UNIQUE,
    description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    min_x DOUBLE,
    min_y DOUBLE,
    max_x DOUBLE,
    max_y DOUBLE,
    srs_id INTEGER,
    CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id)
);
CREATE TABLE gpkg_geometry_columns (
    table_name TEXT NOT NULL,
    column_name TEXT NOT NULL,
    geometry_type_name TEXT NOT NULL,
    srs_id INTEGER NOT NULL,
    z TINYINT NOT NULL,
    m TINYINT NOT NULL,
    CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name),
    CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id)
);
"""

_LAYER = """
CREATE TABLE {name} (
    fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    geom MULTIPOLYGON NOT NULL,
    pair TEXT NOT NULL,
    class INTEGER NOT NULL,
    class_name TEXT NOT NULL,
    score REAL,
    area REAL NOT NULL,
    area_unit TEXT NOT NULL
)
"""

_UNDEFINED = -1
"""The reference system of plane coordinates that are not on the earth."""

_OWN_SYSTEMS = 100_000
"""Where the numbers of reference systems begin that have none of their own: above those of EPSG."""


class GeoPackage:
    """Writes regions to layers, one for each reference system; made by `open_geopackage`."""

    def __init__(self, database: sqlite3.Connection):
        self._database = database
        self._layers: dict[str, _Layer] = {}
        database.executescript(_SCHEMA)
        self._add_system("Undefined Cartesian SRS", _UNDEFINED, "NONE", _UNDEFINED, "undefined")
        self._add_system("Undefined geographic SRS", 0, "NONE", 0, "undefined")
        self._add_system("WGS 84 geodetic", 4326, "EPSG", 4326, LONGITUDE_LATITUDE.to_wkt())

    def layer(self, place: Place | None) -> Callable[..., None]:
        """The function `add(region, *, pair, class_name)` that adds a region of a mask that lies at `place`.

        The layer is `objects`; masks in other reference systems than the first go to `objects_2` and so on. Without a
        place the coordinates are pixels, x to the right and y down.
        """
        key = "" if place is None else place.crs.to_wkt()
        if key not in self._layers:
            name = f"objects_{len(self._layers) + 1}" if self._layers else "objects"
            self._layers[key] = _Layer(self._database, name, _UNDEFINED if place is None else self._system(place.crs))
        return self._layers[key].add

    def finish(self) -> None:
        """Write what is known only now: the extents. A package without regions has an empty layer."""
        if not self._layers:
            self.layer(None)
        for layer in self._layers.values():
            layer.finish()

    def _system(self, crs: CRS) -> int:
        number = crs.to_epsg(confidence_threshold=100)
        organization = "NONE" if number is None else "EPSG"
        if number is None:
            number = _OWN_SYSTEMS + len(self._layers)
        definition = crs.to_wkt()
        self._add_system(definition.split('"')[1], number, organization, number, definition)
        return number

    def _add_system(self, *row: str | int) -> None:
        self._database.execute("INSERT OR IGNORE INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", row)


class _Layer:
    """A table of regions in one reference system."""

    def __init__(self, database: sqlite3.Connection, name: str, system: int):
        self._database, self._name, self._system = database, name, system
        self._lowest, self._highest = np.full(2, np.inf), np.full(2, -np.inf)
        database.execute(_LAYER.format(name=name))
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, srs_id) VALUES (?, 'features', ?, ?)",
            (name, name, system),
        )
        database.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'MULTIPOLYGON', ?, 0, 0)", (name, system)
        )

    def add(self, region: Region, *, pair: str, class_name: str) -> None:
        outlines = np.concatenate([polygon[0] for polygon in region.polygons])
        lowest, highest = outlines.min(axis=0), outlines.max(axis=0)
        self._lowest, self._highest = np.minimum(self._lowest, lowest), np.maximum(self._highest, highest)
        envelope = (lowest[0], highest[0], lowest[1], highest[1])
        self._database.execute(
            f"INSERT INTO {self._name} VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            (
                # little endian (1) with an envelope of x and y (2)
                struct.pack("<2sBBi4d", b"GP", 0, 1 | 2, self._system, *envelope) + _well_known_binary(region.polygons),
                pair,
                region.class_index,
                class_name,
                region.score,
                region.area,
                region.area_unit,
            ),
        )

    def finish(self) -> None:
        if np.isfinite(self._lowest).all():
            self._database.execute(
                "UPDATE gpkg_contents SET min_x = ?, min_y = ?, max_x = ?, max_y = ? WHERE table_name = ?",
                (*self._lowest.tolist(), *self._highest.tolist(), self._name),
            )


def _well_known_binary(polygons: list[list[np.ndarray]]) -> bytes:
    """A MultiPolygon (type 6) of Polygons (3), little endian (1), as ISO 13249-3 has it."""
    parts = [struct.pack("<BII", 1, 6, len(polygons))]
    for rings in polygons:
        parts.append(struct.pack("<BII", 1, 3, len(rings)))
        for ring in rings:
            parts += (struct.pack("<I", len(ring)), ring.astype("<f8").tobytes())
    return b"".join(parts)


@contextmanager
def open_geopackage(path: Path) -> Iterator[GeoPackage]:
    """Open a new GeoPackage; `path` appears whole at the end, or not at all on an error.

    Regions are written as they come. Raises OSError where the file cannot be written.
    """
    with write_whole(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            with closing(sqlite3.connect(temporary)) as database:
                package = GeoPackage(database)
                yield package
                package.finish()
                database.commit()
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"cannot be written: {error}", str(path)) from error
