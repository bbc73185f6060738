"""Procedural scenes: nine shapes in eight colours or one of several materials, rendered exactly."""

from hyperfields.scenes.materials import MATERIALS
from hyperfields.scenes.scene import Scene, render_scenes, scene_of
from hyperfields.scenes.shapes import NOVEL_SHAPES, SHAPES, Shape

__all__ = ["MATERIALS", "NOVEL_SHAPES", "SHAPES", "Scene", "Shape", "render_scenes", "scene_of"]
