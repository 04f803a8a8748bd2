from . import copies, register, revocation
from .copies import Issued, issue
from .revocation import revoke

__all__ = [
    "Issued",
    "copies",
    "issue",
    "register",
    "revocation",
    "revoke",
]
