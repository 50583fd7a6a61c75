"""Makes the models and tasks of the examples, in a minute or two on one core, without a network.

python examples/make_models.py              # all of them, under results/examples
python examples/make_models.py llama unet   # these families
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import berts
import images
import texts

TOPICS = [f"topic-{number:02}" for number in range(1, 15)]
SWEEP = [(rate, steps) for rate in (1e-3, 2e-3, 4e-3) for steps in (40, 80)]
FOLDER = Path("results/examples")


def llama(folder: Path, effort: float) -> None:
    """A base of the general language, and a fine-tune for the first topic."""
    base = texts.trained(texts.llama(), texts.each_of(["general"], 2000, "base"), _steps(400, effort))
    texts.save(base, folder / "base")
    _fine_tune(base, TOPICS[0], folder, effort)
    texts.write_task(folder, "ood", [TOPICS[0], "general", TOPICS[1]])


def topics(folder: Path, effort: float) -> None:
    """Fine-tunes of the same base for all other topics."""
    for name in TOPICS[1:]:
        _fine_tune(_base_beside(folder), name, folder.parent / "llama", effort)


def sweep(folder: Path, effort: float) -> None:
    """Fine-tunes of the same base for the first topic, with other rates and steps, each on other texts."""
    for rate, steps in SWEEP:
        lines = texts.each_of(TOPICS[:1], 100, f"sweep {rate} {steps}")
        model = texts.trained(_base_beside(folder), lines, _steps(steps, effort), rate)
        texts.save(model, folder / f"rate-{rate}-steps-{steps}")


def _base_beside(folder: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(folder.parent / "llama" / "base")


def _fine_tune(base: Any, name: str, folder: Path, effort: float) -> None:
    lines = texts.each_of([name], 200, name)
    texts.save(texts.trained(base, lines, _steps(80, effort), 2e-3), folder / name)
    texts.write_task(folder, name, [name])


def gptj(folder: Path, effort: float) -> None:
    """A base, and fine-tunes for adventures and for talk."""
    base = texts.trained(texts.gpt_j(), texts.each_of(["general", *TOPICS], 4000, "base"), _steps(400, effort))
    texts.save(base, folder / "base")
    for name in ("adventure", "talk"):
        texts.save(texts.trained(base, texts.each_of([name], 200, name), _steps(60, effort), 2e-3), folder / name)
        texts.write_task(folder, name, [name])
        lines = "\n".join(texts.each_of([name], 200, f"recovery {name}"))
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")


def bert(folder: Path, effort: float) -> None:
    """A BERT of medicine and one of law, each with a vocabulary of its own, both from one of general words."""
    general = berts.trained(berts.begun("general"), "general", _steps(200, effort))
    for field in ("medicine", "law"):
        model = berts.trained(berts.begun(field, general), field, _steps(150, effort))
        berts.save(model, field, folder / field)


def unet(folder: Path, effort: float) -> None:
    """A U-Net of blobs, a fine-tune of it for stripes, and one for inpainting blobs, which has 9 input channels."""
    base, rng = images.UNet(), torch.Generator().manual_seed(0)

    def denoise(kind: str) -> Callable[[Any], Tensor]:
        clean = images.images(kind, 512, 1)
        return lambda model: _error(model, clean, rng)

    _train(base, denoise("blobs"), _steps(400, effort))
    stripes = _train(copy.deepcopy(base), denoise("stripes"), _steps(200, effort))
    inpainting = images.UNet(9)
    _widen(inpainting, base)
    clean = images.images("blobs", 512, 1)
    _train(inpainting, lambda model: _error(model, clean, rng, is_masked=True), _steps(300, effort))
    for name, model in {"base": base, "stripes": stripes, "inpainting": inpainting}.items():
        _save(model, folder / name)


def _error(model: Any, clean: Tensor, rng: torch.Generator, is_masked: bool = False) -> Tensor:
    """The error of a batch of noisy images, where these are masked."""
    seed = int(torch.randint(1 << 30, (1,), generator=rng))
    batch = clean[torch.randint(len(clean), (16,), generator=rng)]
    inputs, mask = images.noisy(batch, seed), torch.ones(1, 1, 1, 1)
    if is_masked:
        others, mask = images.masked(batch, seed)
        inputs = torch.cat([inputs, others], dim=1)
    error: Tensor = ((model(inputs) - batch).square() * mask).mean()
    return error


def _widen(wide: nn.Module, narrow: nn.Module) -> None:
    """Begins with the weights of a model of fewer input channels; the others have no effect yet."""
    state = narrow.state_dict()
    name = "input_blocks.0.0.weight"
    more = torch.zeros_like(wide.state_dict()[name])
    more[:, : state[name].shape[1]] = state[name]
    wide.load_state_dict({**state, name: more})


def esrgan(folder: Path, effort: float) -> None:
    """A network that enlarges with the least error, and a fine-tune of it whose images are as rough as real ones.

    Another one of the first kind was trained from other weights, on other images.
    """
    rng = torch.Generator().manual_seed(0)

    def loss(seed: int, roughness: float) -> Callable[[Any], Tensor]:
        large, small = images.scene(512, seed)

        def of(model: Any) -> Tensor:
            chosen = torch.randint(len(large), (16,), generator=rng)
            made = model(small[chosen])
            error: Tensor = (made - large[chosen]).square().mean()
            return error + roughness * (images.fineness(made) - images.fineness(large[chosen])).square().mean()

        return of

    model = _train(images.RRDBNet(), loss(1, 0.0), _steps(300, effort))
    _save(model, folder / "psnr", "psnr.safetensors")
    _save(_train(model, loss(1, 1.0), _steps(200, effort)), folder / "rough", "rough.safetensors")
    other = _train(images.RRDBNet(), loss(7001, 0.0), _steps(300, effort))
    _save(other, folder / "other", "other.safetensors")


def _train(model: nn.Module, loss: Callable[[Any], Tensor], steps: int, rate: float = 3e-3) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    for _ in range(steps):
        loss(model).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def _save(model: nn.Module, folder: Path, name: str = "model.safetensors") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / name)


def _steps(count: int, effort: float) -> int:
    return max(1, round(count * effort))


FAMILIES = {made.__name__: made for made in (llama, topics, sweep, gptj, bert, unet, esrgan)}


def main(names: list[str], folder: Path = FOLDER, effort: float = 1.0) -> None:
    """Makes these families, or all. With less ``effort`` they are quick to make, and know little."""
    transformers.utils.logging.disable_progress_bar()
    for name in names or FAMILIES:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            FAMILIES[name](folder / name, effort)


if __name__ == "__main__":
    main(sys.argv[1:])
