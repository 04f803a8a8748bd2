"""A secret of the tests, and searches for any piece of it in what a program shows."""

import base64
import hashlib
import traceback
from pathlib import Path

from modellock_jax.vault.keys import Secret

# Random-looking, so that no piece of it turns up in a text by chance.
RAW = hashlib.sha512(b"the secret of these tests").digest()[:32]
SECRET = Secret(RAW)
SECRET_64 = base64.b64encode(RAW).decode()
OURS = set(map(str, Path(__file__).parent.glob("*.py")))  # the tests themselves


def shows(text: str, raw: bytes = RAW) -> bool:
    """Whether any 6 bytes' worth of the secret is in `text`, in one of the usual forms."""
    forms = [raw.hex(), repr(raw)[2:-1], repr(list(raw))[1:-1], raw.decode("latin1")]
    forms += [base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
    text = text.lower()
    return any(form[i : i + 12].lower() in text for form in forms for i in range(len(form) - 11))


def told(error: BaseException) -> str:
    """All that a logger can print of an error: chain, attributes, each frame's locals but ours."""
    texts, todo = [], [error]
    while todo:
        e = todo.pop()
        tb = e.__traceback__
        while tb and tb.tb_frame.f_code.co_filename in OURS:
            tb = tb.tb_next
        texts += traceback.TracebackException(type(e), e, tb, capture_locals=True).format()
        texts += [repr(getattr(e, name, None)) for name in dir(e) if name[0] != "_"]
        todo += [link for link in (e.__cause__, e.__context__) if link]
    return "".join(texts)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path
