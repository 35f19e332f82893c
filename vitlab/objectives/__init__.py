"""Training objectives, one per file: `class_path` of `model`, and the abstract classes to subclass."""

from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.data2vec import Data2Vec
from vitlab.objectives.dino import DINO
from vitlab.objectives.distillation import Distillation, HardTarget, SoftTarget
from vitlab.objectives.esvit import EsViT
from vitlab.objectives.ibot import IBOT
from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.lejepa import LeJEPA
from vitlab.objectives.mae import MAE
from vitlab.objectives.masking import block_masking, enlarge, random_masking
from vitlab.objectives.msn import MSN
from vitlab.objectives.multi_label import MultiLabel
from vitlab.objectives.objective import Objective
from vitlab.objectives.pretraining import Pretraining
from vitlab.objectives.regression import Regression
from vitlab.objectives.self_distillation import SelfDistillation, embed_views
from vitlab.objectives.simmim import SimMIM
from vitlab.objectives.supervised import Supervised
from vitlab.objectives.task import Monitor, Task
from vitlab.objectives.teacher import Teacher
from vitlab.objectives.um_mae import UMMAE

__all__ = [
    "DINO",
    "IBOT",
    "MAE",
    "MSN",
    "UMMAE",
    "ClassificationTask",
    "Data2Vec",
    "Distillation",
    "EsViT",
    "HardTarget",
    "LabeledObjective",
    "LeJEPA",
    "Monitor",
    "MultiLabel",
    "Objective",
    "Pretraining",
    "Regression",
    "SelfDistillation",
    "SimMIM",
    "SoftTarget",
    "Supervised",
    "Task",
    "Teacher",
    "block_masking",
    "embed_views",
    "enlarge",
    "random_masking",
]
