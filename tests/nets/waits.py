"""Counter of the places where a training loop waits for its device or for the other processes."""

import json
import traceback
from collections import Counter
from pathlib import Path

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

READS = (
    "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive",
    "bincount", "repeat_interleave.Tensor",
)  # fmt: skip

TO_HOST = ("cpu", "tolist")  #: methods that need the device's values on the host

OWN_COPY = "host_copy.py"  #: reads memory of the host that the device has written before


class Waits(L.Callback):
    """Writes what waited after each step: {step: {"what: called by < called by ...": times}}, one file per process.

    Counted are operations whose result the host needs to go on (``.item()``, ``float()``, ``bool()``, ``nonzero``), methods
    that bring a tensor to the host, and collectives. On a CPU all of them are quick, but they are called all the same.
    """

    def __init__(self):
        self.found = {}
        self.now = Counter()
        self.mode = None

    def on_train_start(self, trainer, pl_module):
        self.trainer = trainer
        self.methods = {name: getattr(torch.Tensor, name) for name in TO_HOST}
        for name, method in self.methods.items():
            setattr(torch.Tensor, name, self._counted(name, method))
        self.mode = _Seen(self)
        self.mode.__enter__()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        """End the previous batch: this is the first callback, so all that the loop did after a step is seen."""
        self._keep()

    def on_train_end(self, trainer, pl_module):
        self._keep()
        self.mode.__exit__(None, None, None)
        for name, method in self.methods.items():
            setattr(torch.Tensor, name, method)
        Path(f"waits_{trainer.global_rank}.json").write_text(json.dumps(self.found))

    def _keep(self):
        step = str(self.trainer.global_step)
        if self.now:
            self.found[step] = dict(Counter(self.found.get(step, {})) + self.now)
        self.now = Counter()

    def note(self, what):
        wrappers = ("waits.py", "_python_dispatch.py", "_dynamo/eval_frame.py", "torch/_compile.py")
        frames = [f for f in traceback.extract_stack() if not f.filename.endswith(wrappers)]
        torchs = [f for f in frames if "site-packages/torch" in f.filename][-4:]
        shown = [f for f in frames if f in torchs or "site-packages/torch" not in f.filename][-12:]
        chain = [f"{f.name} ({'/'.join(Path(f.filename).parts[-2:])}:{f.lineno})" for f in reversed(shown)]
        self.now[f"{what}: {' < '.join(chain)}"] += 1

    def _counted(self, name, method):
        def counted(tensor, *args, **kwargs):
            if traceback.extract_stack(limit=2)[0].filename.rpartition("/")[2] != OWN_COPY:
                self.note(f".{name}")
            return method(tensor, *args, **kwargs)

        return counted


class States(L.Callback):
    """Writes the weights after each step, one file per process."""

    def on_train_start(self, trainer, pl_module):
        self.kept = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.kept[trainer.global_step] = {k: v.clone() for k, v in pl_module.model.state_dict().items()}

    def on_train_end(self, trainer, pl_module):
        torch.save(self.kept, f"states_{trainer.global_rank}.pt")


class _Seen(TorchDispatchMode):
    """Sees every operation, also those that C++ calls."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, _, name = func._schema.name.partition("::")
        masks = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if space == "c10d" or name in READS or f"{name}.{func._overloadname}" in READS or masks:
            self.waits.note(name)
        return func(*args, **(kwargs or {}))
