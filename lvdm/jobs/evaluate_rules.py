"""Rules for what a user gives the functions that measure."""

from __future__ import annotations

import torch

from lvdm.evaluation.protocols.protocol import EvalProtocol
from lvdm.rules import FLAG, MAPPING, PATH, TEXT, Rule, integer, listed, number, optional

NAMES = listed(TEXT, 1, 100)
COUNT = Rule("null or an integer", lambda value: value is None or integer(-(2**63)).holds(value))
NAME_OR_PROTOCOL = Rule("a name or an EvalProtocol", lambda value: isinstance(value, str | EvalProtocol))
RULES = {  # of EvalSettings; what else is out of range is refused where its meaning is known
    "changes": MAPPING,
    "split": optional(TEXT),
    "feature_width": number(),
    "feature_seed": integer(0, 2**63 - 1),
    "weights": listed(PATH, 0, 100),
    "bootstrap": integer(0),
    "extrapolate": FLAG,
    "replay": optional(PATH),
    "batch_size": integer(1),
    "workers": integer(0),
    "is_cached": FLAG,
    "device": Rule("text or a torch.device", lambda value: isinstance(value, str | torch.device)),
    "allow": listed(TEXT, 0, 100),
}
