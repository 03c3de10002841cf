"""DDP: every process has the whole model, and gradients are averaged."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from trimlab.training.strategies._strategy import Distributed


class Ddp(Distributed, DDPStrategy):
    """DDP that wraps the model anew after every drop.

    The wrapper waits for gradients of the parameters that it was made with. It is made by the
    first training step, when it is known what is trained, and again after every change. Making it
    sends the first rank's weights to the others: rounding cannot let them drift apart.
    """

    extends = DDPStrategy

    def __init__(self, **options: Any):
        # buffers are rotary frequencies, and sending them would make evaluations wait for others
        super().__init__(broadcast_buffers=False, **options)

    def join(self) -> None:
        """Opens the process group."""
        self.setup_environment()

    def on_parameters_changed(self) -> None:
        """Unwraps the model."""
        if self.model is not None:
            self.model = self.lightning_module

    def configure_ddp(self) -> None:
        """Wraps nothing yet."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """A training step of the wrapped model; without trained parameters there is no wrapper."""
        module = self.lightning_module
        assert module is not None
        if self.model is module and any(p.requires_grad for p in module.parameters()):
            super().configure_ddp()
        return super().training_step(*args, **kwargs)
