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

OWN_COPY = "host_copy.py"  #: the file that reads memory of the host, which the device has written, and asks for it first


class Waits(L.Callback):
    """Writes what waited after each step: {step: {"what at file:line < caller ...": times}}, one file per process.

    Counted are operations whose result the host needs to go on (``.item()``, ``float()``, ``bool()``, ``nonzero``), methods that
    bring a tensor to the host, and collectives. On a CPU all of them are quick, but they are called all the same. Left out is
    what ddp's reducer calls in the backward pass, which is the reduction of the gradients.
    """

    def __init__(self, folder="."):
        self.folder = Path(folder)
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
        path = self.folder / f"waits_{trainer.global_rank}.json"
        path.write_text(json.dumps(self.found))

    def _keep(self):
        step = str(self.trainer.global_step)
        if self.now:
            self.found[step] = dict(Counter(self.found.get(step, {})) + self.now)
        self.now = Counter()

    def note(self, what):
        frames = [f for f in traceback.extract_stack() if not f.filename.endswith(("waits.py", "_python_dispatch.py", "_dynamo/eval_frame.py"))]
        if what == "allreduce_" and frames[-1].name == "_engine_run_backward":
            return  # by ddp's reducer: a function of our own in the backward pass would be the last frame
        own = [f for f in frames if "site-packages/torch" not in f.filename] or frames
        chain = [f"{f.name} ({'/'.join(Path(f.filename).parts[-2:])}:{f.lineno})" for f in (*own[-4:], *frames[-1:])]
        self.now[f"{what}: {' < '.join(reversed(chain))}"] += 1

    def _counted(self, name, method):
        def counted(tensor, *args, **kwargs):
            if traceback.extract_stack(limit=2)[0].filename.rpartition("/")[2] != OWN_COPY:
                self.note(f".{name}")
            return method(tensor, *args, **kwargs)

        return counted


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
