"""What a training costs on a device: FLOPs, time of a step, peak memory, images per second, energy."""

from vitlab.evaluation.cost.cost import READY as READY
from vitlab.evaluation.cost.cost import Cost as Cost
from vitlab.evaluation.cost.cost import doubts as doubts
from vitlab.evaluation.cost.device import device_for as device_for
from vitlab.evaluation.cost.device import device_name as device_name
from vitlab.evaluation.cost.device import processor_name as processor_name
from vitlab.evaluation.cost.flops import count_flops as count_flops
