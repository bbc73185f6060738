"""What leaves the program: meshes as GLB, PLY, OBJ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from priors_shared.errors import UserError
from priors_shared.files import write_atomically

if TYPE_CHECKING:
    import trimesh
MESHES = (".glb", ".ply", ".obj")


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a mesh as its suffix says. GLB is y-up with the front at +z, as glTF wants; the others stay z-up.

    Raises:
        UserError: another suffix.
    """
    if path.suffix.lower() not in MESHES:
        raise UserError(f"{path}: unknown mesh format: use one of {', '.join(MESHES)}")
    mesh = mesh.copy()
    if path.suffix.lower() == ".glb":
        # (x, y, z) -> (x, z, -y): a turn by -90 degrees around x.
        turn = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=float)
        mesh.apply_transform(turn)
    content: Any = mesh.export(file_type=path.suffix.lower()[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
