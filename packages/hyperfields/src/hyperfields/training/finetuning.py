"""Out-of-distribution prompts: the trained hypernetwork goes on learning, from one prompt (4.4.3, Fig. 4.8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial

from hyperfields.conditioning.text import normalise
from hyperfields.config import FinetuneConfig, LaunchConfig
from hyperfields.guidance.score import Guidance
from hyperfields.hypernetwork.network import PromptField
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import parameter_groups
from hyperfields.training.score_distillation import distil_scores
from priors_shared.runs import Run


def finetune(
    config: FinetuneConfig,
    model: HyperFields,
    launch: LaunchConfig,
    run: Run,
    *,
    guidance: Guidance | None = None,
    observe: Callable[[HyperFields], Mapping[str, float]] | None = None,
) -> HyperFields:
    """Score distillation through the hypernetwork, all of which learns; goes on from the last checkpoint.

    Returns the tuned model, and writes it to OUT/model.

    Args:
        config: the training.
        model: what to begin with; it stays as it is.
        launch: device, precision, threads.
        run: its folder.
        guidance: a denoiser in place of the one that `config` names.
        observe: is handed the model as it is, and gives more metrics to log.

    Raises:
        UserError: a guidance that is not to be had, or a prompt that it does not know.
    """
    prompt = normalise(config.prompt)
    net = deepcopy(model.net)
    tokens, mask = model.text.encode([prompt])
    prompts = list(dict.fromkeys([*model.prompts, prompt]))
    tuned = HyperFields(net, model.text, trained={**model.trained, "prompts": prompts})
    groups = parameter_groups(net, config.learning_rate, config.grid_learning_rate)
    scenes = {prompt: PromptField(net, tokens, mask)}
    watch = partial(observe, tuned) if observe is not None else None
    distil_scores(config, scenes, net, groups, launch, run, guidance=guidance, observe=watch)
    tuned.trained["finetuned"] = [*model.trained.get("finetuned", ()), prompt]
    tuned.save(run.out / "model")
    return tuned
