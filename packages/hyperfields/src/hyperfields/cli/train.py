"""`hyperfields train`, `distill`, `train-segmentation` and `train-guidance`: trainings on many scenes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro
from tyro.conf import Positional, arg

from hyperfields.cli.options import PoseScale
from hyperfields.config import DistillConfig, GuidanceConfig, SegmentConfig
from hyperfields.presets import DISTILL, GUIDANCE, SEGMENT
from priors_shared.cli import TrainVerb
from priors_shared.options import say

if TYPE_CHECKING:
    from hyperfields.data.views import PosedViews
    from priors_shared.runs import Run


@dataclass(frozen=True, kw_only=True)
class Train(TrainVerb):
    """Train a model on the exact renders of a preset's procedural scenes."""

    presets: ClassVar[Any] = DISTILL
    config: DistillConfig

    def teachers(self) -> dict[str, PosedViews]:
        """What is distilled, by prompt."""
        from hyperfields.data.views import procedural_views
        from hyperfields.training.distillation import training_cameras

        return procedural_views(self.config.prompts, training_cameras(self.config))

    def train(self, run: Run) -> None:
        """Distil the teachers."""
        from hyperfields.training.distillation import distill

        distill(self.config, self.teachers(), self.launch, run)

    def report(self, run: Run) -> None:
        """Write the curve and some scenes, held-out ones too."""
        from hyperfields.output.sheet import write_contact_sheet
        from hyperfields.plots import training_figure
        from hyperfields.pretrained import HyperFields

        config, metrics = self.config, run.metrics()
        figure: Any = training_figure(metrics, "psnr", title=self.preset)
        run.save_figure("training", figure)
        model = HyperFields.from_pretrained(run.out, text=config.model.text)
        shown = [*model.prompts[:: max(1, len(model.prompts) // 4)][:4], *config.held_out[:4]]
        labels = [p + " (held out)" * (p in config.held_out) for p in shown]
        sheet = run.plots / "scenes.png"
        write_contact_sheet(model.generate_all(shown), labels, sheet, size=64, samples=48)
        say(f"model     {run.out / 'model'}: {metrics[-1]['psnr']:.1f} dB on training rays")
        say(f"scenes    {sheet}")
        say(f"next      hyperfields generate {shlex.quote(model.prompts[0])} --model {run.out}")


@dataclass(frozen=True, kw_only=True)
class Distill(Train):
    """Train a model on a folder of teachers (stage 2): trained NeRFs, or posed renders of any system."""

    folder_of_teachers: Annotated[Positional[Path], arg(name="teachers", metavar="TEACHERS")] = (
        tyro.MISSING
    )
    """folder with one subfolder for each prompt: trained NeRFs, or posed renders with transforms.json"""
    pose_scale: PoseScale = 1.0

    @classmethod
    def preset_config(cls, preset: str) -> DistillConfig:
        """A preset's configuration; of a folder all prompts are learned."""
        return replace(DISTILL[preset](), held_out=())

    def record(self) -> dict[str, Any]:
        """The run's configuration, and what it learns from."""
        more = {"teachers": str(self.folder_of_teachers), "pose_scale": self.pose_scale}
        return super().record() | more

    def teachers(self) -> dict[str, PosedViews]:
        """What is distilled, by prompt."""
        from hyperfields.data.teachers import read_teachers
        from hyperfields.training.distillation import training_cameras

        cameras = training_cameras(self.config)
        return read_teachers(self.folder_of_teachers, cameras, pose_scale=self.pose_scale)


@dataclass(frozen=True, kw_only=True)
class TrainSegmentation(TrainVerb):
    """Train a network from a few views to fields with part labels."""

    presets: ClassVar[Any] = SEGMENT
    config: SegmentConfig

    def train(self, run: Run) -> None:
        """Train on procedural scenes of random proportions."""
        from hyperfields.segmentation.training import train_segmentation

        train_segmentation(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Write the curve and some novel scenes."""
        from hyperfields.plots import training_figure
        from hyperfields.segmentation.evaluation import write_novel_scenes
        from hyperfields.segmentation.pretrained import HyperSegmentationFields

        figure: Any = training_figure(run.metrics(), "psnr", title=self.preset)
        run.save_figure("training", figure)
        sheet = run.plots / "novel_scenes.png"
        write_novel_scenes(HyperSegmentationFields.from_pretrained(run.out), self.config, sheet)
        say(f"model     {run.out / 'model'}")
        say(f"scenes    {sheet}")
        say(f"next      hyperfields segment {run.out} VIEWS, a folder of posed renders")


@dataclass(frozen=True, kw_only=True)
class TrainGuidance(TrainVerb):
    """Train a small diffusion model of procedural scenes, to guide teach and finetune."""

    presets: ClassVar[Any] = GUIDANCE
    config: GuidanceConfig

    def train(self, run: Run) -> None:
        """Train the denoiser."""
        from hyperfields.training.guidance import train_guidance

        train_guidance(self.config, self.launch, run)

    def report(self, run: Run) -> None:
        """Write the curve, and images that the model draws."""
        from hyperfields.guidance.procedural import draw, load_procedural
        from hyperfields.output.sheet import contact_sheet
        from hyperfields.plots import training_figure

        config = self.config
        figure: Any = training_figure(run.metrics(), "loss", title=self.preset)
        run.save_figure("training", figure)
        prompts, views = config.prompts[::6], ("front", "side")
        asked = [f"{prompt}, {view} view" for prompt in prompts for view in views]
        drawn = draw(load_procedural(run.out, text=config.unet.text), asked, seed=config.seed)
        rows = drawn.permute(0, 2, 3, 1).unflatten(0, (len(prompts), len(views)))
        enlarged = rows.repeat_interleave(3, 2).repeat_interleave(3, 3)
        contact_sheet([list(row) for row in enlarged], prompts, run.plots / "images.png")
        say(f"guidance  {run.out / 'model'}")
        say(f"images    {run.plots / 'images.png'}")
        prompt = shlex.quote(config.prompts[0])
        say(f"next      hyperfields teach teacher_unet_cpu {prompt} --guidance {run.out}")
