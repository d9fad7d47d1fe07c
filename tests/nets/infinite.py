"""A loss that is infinite in one process and at one step, with a finite gradient."""

import os

import torch
from torch import nn


class Infinite(nn.L1Loss):
    def __init__(self, *, step=4, rank=1):
        super().__init__()
        self.step, self.rank, self.count = step, rank, 0

    def forward(self, sr, hr):
        self.count += sr.requires_grad
        loss = super().forward(sr, hr)
        here = int(os.environ.get("LOCAL_RANK", "0")) == self.rank
        return loss + torch.inf if here and self.count == self.step else loss
