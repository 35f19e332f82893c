"""Training objectives, one per file: `class_path` of `model`, and the abstract classes to subclass."""

from types import ModuleType as _ModuleType

from vitlab.objectives.classification import ClassificationTask as ClassificationTask
from vitlab.objectives.data2vec import Data2Vec as Data2Vec
from vitlab.objectives.dino import DINO as DINO
from vitlab.objectives.distillation import Distillation as Distillation
from vitlab.objectives.distillation import HardTarget as HardTarget
from vitlab.objectives.distillation import SoftTarget as SoftTarget
from vitlab.objectives.esvit import EsViT as EsViT
from vitlab.objectives.ibot import IBOT as IBOT
from vitlab.objectives.labeled import LabeledObjective as LabeledObjective
from vitlab.objectives.lejepa import LeJEPA as LeJEPA
from vitlab.objectives.mae import MAE as MAE
from vitlab.objectives.masking import block_masking as block_masking
from vitlab.objectives.masking import enlarge as enlarge
from vitlab.objectives.masking import random_masking as random_masking
from vitlab.objectives.msn import MSN as MSN
from vitlab.objectives.multi_label import MultiLabel as MultiLabel
from vitlab.objectives.multi_label import Regression as Regression
from vitlab.objectives.objective import Objective as Objective
from vitlab.objectives.pretraining import Pretraining as Pretraining
from vitlab.objectives.self_distillation import SelfDistillation as SelfDistillation
from vitlab.objectives.self_distillation import embed_views as embed_views
from vitlab.objectives.simmim import SimMIM as SimMIM
from vitlab.objectives.supervised import Supervised as Supervised
from vitlab.objectives.task import Monitor as Monitor
from vitlab.objectives.task import Task as Task
from vitlab.objectives.teacher import Teacher as Teacher
from vitlab.objectives.um_mae import UMMAE as UMMAE

__all__ = [name for name, value in vars().items() if name[0] != "_" and not isinstance(value, _ModuleType)]
