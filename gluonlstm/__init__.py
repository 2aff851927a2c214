"""gluonlstm: Gluon LSTMs on today's hardware.

Train with :class:`gluonlstm.LSTM` (a drop-in for ``mxnet.gluon.rnn.LSTM``), compile the exported
graph with :func:`gluonlstm.compile`, deploy the result with :func:`gluonlstm.load`. Importing this
package needs numpy alone; each name below imports what it needs when it is first used.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

from gluonlstm.errors import GluonLSTMError
from gluonlstm.spec import LSTMSpec

if TYPE_CHECKING:
    from gluonlstm.block import LSTM, export
    from gluonlstm.compiler import compile
    from gluonlstm.runtime import CompiledModel, load

__version__ = "0.1.0"
__all__ = [
    "LSTM",
    "CompiledModel",
    "GluonLSTMError",
    "LSTMSpec",
    "compile",
    "export",
    "load",
]

# setup.py installs codegen/ as gluonlstm.codegen. In a source checkout it lies beside this
# package instead; look there too, so that a checkout works whether or not it is installed.
_here = _Path(__file__).resolve().parent
if not (_here / "codegen" / "__init__.py").is_file():
    __path__.append(str(_here.parent))

_HOME = {  # public name -> module that defines it
    "LSTM": "gluonlstm.block",
    "export": "gluonlstm.block",
    "compile": "gluonlstm.compiler",
    "CompiledModel": "gluonlstm.runtime",
    "load": "gluonlstm.runtime",
}


def __getattr__(name: str) -> object:
    # MXNet is archived and the TVM compiler large: only what needs them imports them.
    if name in _HOME:
        return getattr(_import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
