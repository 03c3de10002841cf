"""Random sequences of drop, bypass, save, load, replay and export, on every family.

More of them: `pytest tests/model/test_sequences.py --hypothesis-profile=many`.
"""

import copy
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn

from tests.tiny import tiny_model, tiny_tokenizer
from trimlab.errors import InputError
from trimlab.export._packing import drop_dead
from trimlab.export.hf import load_export, save_packed
from trimlab.model.family import FAMILIES
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.plugins import plugin_names

BLOCKS = 3
IDS = torch.randint(4, 64, (2, 12), generator=torch.Generator().manual_seed(2))


class Reference:
    """An untrimmed model that multiplies the outputs of chosen sublayers by nothing."""

    def __init__(self, model: Any):
        self.model, self.silent = copy.deepcopy(model), set[Sublayer]()
        self.bytes = sum(p.nbytes for p in model.parameters())
        stack = SublayerStack(self.model)
        self.bytes_of = {s: sum(p.nbytes for p in stack.parameters(s)) for s in stack.original}
        for sublayer in stack.original:
            stack.modules(sublayer)[-1].register_forward_hook(self._hook(sublayer))

    def _hook(self, sublayer: Sublayer) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            if sublayer not in self.silent:
                return None
            if isinstance(output, tuple):
                return (torch.zeros_like(output[0]), *output[1:])
            return torch.zeros_like(output)

        return hook

    def logits(self, silent: set[Sublayer]) -> Tensor:
        self.silent = silent
        return logits_of(self.model)


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    return model(input_ids=IDS, use_cache=False).logits


class Sequences(RuleBasedStateMachine):
    """A model that is trimmed, and the list of what it should have lost."""

    @initialize(family=st.sampled_from(plugin_names(FAMILIES)), seed=st.integers(0, 3))
    def start(self, family: str, seed: int) -> None:
        self.family = family
        self.shape: dict[str, Any] = {"num_hidden_layers": BLOCKS}
        if layer_types := getattr(tiny_model(family).config, "layer_types", None):
            self.shape["layer_types"] = layer_types[-BLOCKS:]
        self.untrimmed = tiny_model(family, seed=seed, **self.shape)
        self.reference = Reference(self.untrimmed)
        self.stack = SublayerStack(copy.deepcopy(self.untrimmed))
        self.dropped: list[Sublayer] = []

    def left(self) -> list[Sublayer]:
        return [s for s in self.stack.original if s not in self.dropped]

    def some(self, data: st.DataObject, most: int = 3) -> list[Sublayer]:
        """Sublayers that are there, but not all of them."""
        most = min(most, len(self.left()) - 1)
        chosen = st.lists(st.sampled_from(self.left()), min_size=1, max_size=most, unique=True)
        return data.draw(chosen)

    @precondition(lambda self: len(self.left()) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        sublayers = self.some(data)
        self.stack.drop(*sublayers)
        self.dropped += sublayers

    @precondition(lambda self: len(self.left()) > 1)
    @rule(data=st.data())
    def bypass(self, data: st.DataObject) -> None:
        sublayers = self.some(data)
        with self.stack.bypass(*sublayers):
            silent = {*self.dropped, *sublayers}
            assert torch.equal(logits_of(self.stack.model), self.reference.logits(silent))
            assert self.stack.history == self.dropped

    @precondition(lambda self: self.dropped)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        wrong = data.draw(st.sampled_from([*self.dropped, Sublayer(BLOCKS, "mlp")]))
        with pytest.raises(InputError):
            self.stack.drop(self.left()[0], wrong)

    @rule()
    def save_and_load(self) -> None:
        file = io.BytesIO()
        history = [str(s) for s in self.stack.history]
        torch.save({"history": history, "state": self.stack.model.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        model = tiny_model(self.family, seed=9, **self.shape)
        self.stack = SublayerStack(model)
        self.stack.drop(*map(Sublayer.parse, saved["history"]))
        model.load_state_dict(saved["state"], strict=True)

    @rule()
    def replay(self) -> None:
        model = copy.deepcopy(self.untrimmed)
        SublayerStack(model).drop(*self.stack.history)
        assert torch.equal(logits_of(model), logits_of(self.stack.model))
        assert model.state_dict().keys() == self.stack.model.state_dict().keys()

    @rule()
    def export(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            written = save_packed(self.stack, tiny_tokenizer(), Path(place, "model"))
            model = load_export(written.folder, torch.float64)
        expected = logits_of(self.stack.model)
        eager = model.config._attn_implementation == "eager"  # its softmax is in float32
        tolerance = 1e-6 if eager else 1e-12
        torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=tolerance)
        reloaded = SublayerStack(model)
        drop_dead(reloaded)
        assert [s.kind for s in reloaded] == [s.kind for s in self.left()]

    @invariant()
    def logits_are_those_of_zero_outputs(self) -> None:
        expected = self.reference.logits(set(self.dropped))
        assert torch.equal(logits_of(self.stack.model), expected)

    @invariant()
    def sizes_add_up(self) -> None:
        gone = sum(self.reference.bytes_of[s] for s in self.dropped)
        everything = sum(self.reference.bytes_of.values())
        assert sum(p.nbytes for p in self.stack.model.parameters()) == self.reference.bytes - gone
        assert self.stack.bytes_of(*self.stack) == everything - gone
        assert self.stack.layer_memory_ratio == pytest.approx(1 - gone / everything)
        assert self.stack.model_memory_ratio == pytest.approx(1 - gone / self.reference.bytes)

    @invariant()
    def history_is_what_was_dropped(self) -> None:
        assert self.stack.history == self.dropped
        assert list(self.stack) == self.left()


TestSequences = Sequences.TestCase
pytestmark = pytest.mark.slow
# a sequence is some ten forward passes: a tenth of the examples of other tests
TestSequences.settings = settings(
    max_examples=max(1, settings.default.max_examples // 10), stateful_step_count=8
)
