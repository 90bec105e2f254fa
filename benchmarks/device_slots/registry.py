"""All slots, in the order of their turns: what decides most comes first."""

from device_slots.attention import ATTENTION
from device_slots.sampling import SAMPLE, SAMPLE_STUDENT
from device_slots.slot import Slot
from device_slots.torch_twin import TORCH_SAMPLE, TORCH_TRAIN
from device_slots.training import PROFILE, TRAINING
from device_slots.versions import RATES, VERSIONS

_FIRST, _SECOND, *_MORE = TRAINING

SLOTS: tuple[Slot, ...] = (
    VERSIONS,
    RATES,
    ATTENTION,
    _FIRST,
    SAMPLE,
    _SECOND,
    TORCH_TRAIN,
    TORCH_SAMPLE,
    *_MORE,
    SAMPLE_STUDENT,
    PROFILE,
)
