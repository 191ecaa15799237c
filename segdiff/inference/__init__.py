"""Prediction on images of any size: tiles, rasters and the objects found in a mask."""
