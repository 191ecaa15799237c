"""Pairs of drawn aerial scenes in which buildings appear, vanish or grow, with the true change as label.

A scene is planned once, as a world of streets, parcels, water, buildings, trees and cars (`Scene`), and then seen twice
under different conditions (`Conditions`): another sun, another season, another camera. What differs beside the
buildings (cars, shadows, crops, crowns, colours, noise, misregistration) is there to mislead and is not labelled. One
pixel stands for about half a metre at every image size: a larger image shows more of the world, not larger houses.
"""
