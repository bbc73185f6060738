"""Radiance fields: positions to densities and colours, cameras, volume rendering."""
