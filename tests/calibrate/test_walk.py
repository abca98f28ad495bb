"""A model walked through layer by layer computes what it computes whole."""

from collections.abc import Callable

import pytest
import torch

from kbit.calibrate.walk import LayerWalk, find_layers
from kbit.core.errors import ModelError

WALKED = ["llama", "gpt2", "neox", "opt", "bloom", "mixtral", "gpt_oss", "gemma3", "bert"]


def heads_input(model, run) -> torch.Tensor:
    """What the last linear layer outside of the layers got in `run`."""
    name, _ = find_layers(model)
    head = [module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear) and not path.startswith(f"{name}.")][-1]
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        run()
    handle.remove()
    return torch.cat(seen)


def walk_through(walk: LayerWalk) -> None:
    walk.start()
    for index in range(len(walk.layers)):
        walk.open(index)
        walk.run(index, keep=False)
        walk.run(index, keep=True)
        walk.close(index)
    walk.finish()


@pytest.mark.parametrize("batch_tokens", [8192, 36])
@pytest.mark.parametrize("kind", WALKED)
def test_layer_by_layer_is_the_whole_model(
    kind: str, batch_tokens: int, make_model: Callable, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbit.calibrate.walk.BATCH_TOKENS", batch_tokens)
    model = make_model(kind)
    expected = heads_input(model, lambda: model(input_ids=ids))
    with LayerWalk(model, ids) as walk:
        found = heads_input(model, lambda: walk_through(walk))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads_input(model, lambda: model(input_ids=ids)), expected, rtol=0, atol=0)


def test_halves_are_widened_for_the_walk_and_come_back(make_model: Callable, ids: torch.Tensor) -> None:
    model = make_model("llama")
    for parameter in model.parameters():  # not the rotary frequencies, which loaders keep in float32 too
        parameter.data = parameter.data.to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wide = make_model("llama")
    wide.load_state_dict({name: tensor.float() for name, tensor in before.items()})
    with LayerWalk(model, ids) as walk:
        found = heads_input(model, lambda: walk_through(walk))
    torch.testing.assert_close(found, heads_input(wide, lambda: wide(input_ids=ids)), rtol=1e-4, atol=1e-5)
    after = model.state_dict()
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(after[name], tensor) for name, tensor in before.items())


def test_models_without_one_list_of_layers_are_refused(make_model: Callable, ids: torch.Tensor) -> None:
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        find_layers(make_model("t5"))
    with pytest.raises(ModelError, match="needs a model with a list of layers, got Sequential"):
        find_layers(torch.nn.Sequential(torch.nn.Linear(4, 4)))

    class Images(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.layers[0](pixels)

    with pytest.raises(ModelError, match="does not run on tokens alone"), LayerWalk(Images(), ids) as walk:
        walk.start()
