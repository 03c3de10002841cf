"""Checkpoints inside of an epoch: on a signal, and now and then."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L

from trimlab import ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = b"trimlab: ending once this step is saved; another signal ends at once\n"
EVERY_SECONDS = 900  # of training between two checkpoints, where epochs are longer


class CheckpointInEpoch(L.Callback):
    """Saves the state of a fit between two optimizer steps, where an epoch may take hours.

    SIGINT (Ctrl-C) and SIGTERM (preemption) end the fit with a `KeyboardInterrupt` once the step
    is done and saved; the second signal does it at once. The last step of an epoch is saved with
    what follows it: the dev score, the scan and the drop.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path):
        self._path, self._saved = path, time.monotonic()
        self._asked = self._kept = False  # whether to end, and whether all is saved for it
        self._handlers: dict[int, Any] = {}  # those before

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes over from Lightning's handlers, which end a fit without a checkpoint."""
        self._saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._on_signal)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back: nothing else is called then."""
        self._give_back()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends the fit behind a step that has been saved, and logged since."""
        if self._kept:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves the state, if it is time or a signal has come."""
        loop = trainer.fit_loop.epoch_loop
        if loop._num_ready_batches_reached() or loop._should_accumulate():
            return
        late = time.monotonic() - self._saved > EVERY_SECONDS
        if self._any_asked() or any(ranks.gathered(late)):
            trainer.save_checkpoint(self._path)
            self._saved, self._kept = time.monotonic(), self._asked

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch before has been saved."""
        if self._any_asked():
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gives the signals back, before Lightning does: the last epoch has been saved."""
        self._give_back()
        if self._any_asked():
            raise KeyboardInterrupt

    def _any_asked(self) -> bool:
        """Whether a process has got a signal: all of them save, and end, behind the same step."""
        self._asked = any(ranks.gathered(self._asked))
        return self._asked

    def _give_back(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _on_signal(self, *_: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        os.write(2, SAID)  # what is interrupted may be printing
