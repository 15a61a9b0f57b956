"""What a result says of the model that made it, as the model itself gives it."""

from __future__ import annotations

from genlm.model.info import ModelInfo as ModelInfo
from genlm.model.pieces import Token as Token
