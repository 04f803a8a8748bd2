from .own import Result, run
from .record import Study
from .table import STUDIES

__all__ = ["STUDIES", "Result", "Study", "run"]
