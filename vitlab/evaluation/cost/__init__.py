"""What a training costs on a device: FLOPs, images per second, peak memory, energy."""

from vitlab.evaluation.cost.device import device_for as device_for
from vitlab.evaluation.cost.device import device_name as device_name
from vitlab.evaluation.cost.device import processor_name as processor_name
from vitlab.evaluation.cost.flops import count_flops as count_flops
