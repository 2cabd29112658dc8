"""The judge of a scan: the allow-list applied to each import and call, with a message that names the offender."""

import importlib
import warnings
from pathlib import Path
from typing import Any, NoReturn

from model_scorer.errors import UnsafePickle
from model_scorer.verify.allowed import (
    BASE_CLASSES,
    CLASS_ARGUMENT,
    FIRST_ARGUMENT_IS_IMPORT,
    TEXT_ENCODINGS,
    TORCH,
    Use,
    derive_use,
)
from model_scorer.verify.dtypes import DTYPE, check_dtype
from model_scorer.verify.values import Built, Import

_WAY_OUT = (
    "If you trust whoever made the file, set spec.trustPickle: true; otherwise save the model in a format that "
    "needs no trust (skops.io.dump for scikit-learn, safetensors or torch.export for PyTorch, ONNX)."
)


class AllowListGate:
    """Refuses what the allow-list does not have.

    Args:
        path: the file, for messages and to tell the model's own modules.
        torch: the pickle is part of a torch file, which torch.load reads with weights_only.
    """

    def __init__(self, path: Path, *, torch: bool = False) -> None:
        self._path = path
        self._torch = torch
        self._uses: dict[Import, Use] = {}
        self.imports_seen = False

    def see_import(self, target: Import) -> None:
        """Refuse an import that no model needs."""
        self.imports_seen = True
        if target in self._uses:
            return
        if self._torch and TORCH.fullmatch(str(target)):
            self._uses[target] = Use.NAME | Use.NEW | Use.CALL
            return
        use, is_class_by_rule = derive_use(target.module, target.name)
        if use is Use.NONE or (is_class_by_rule and not _is_class_of_library(target)):
            self._refuse_import(target)
        self._uses[target] = use

    def see_call(self, function: Import, arguments: tuple[Any, ...] | None, *, new: bool) -> None:
        """Refuse a call that the allow-list knows as a value only, or with an argument that makes it another call."""
        use = self._uses[function]
        if not use & (Use.NEW if new else Use.CALL):
            self.refuse(f"calls {function} while it is loaded, which a model need not do")
        key = (function.module, function.name)
        first = arguments[0] if arguments else None
        if key in CLASS_ARGUMENT:
            package = CLASS_ARGUMENT[key]
            if (
                not isinstance(first, Import)
                or not self._uses[first] & Use.NEW
                or (package and first.module.partition(".")[0] != package)
            ):
                self.refuse(
                    f"calls {function} with {_describe(first)}, which is no class that it makes"
                )
        elif key in FIRST_ARGUMENT_IS_IMPORT and not (
            isinstance(first, Import) or (first is None and arguments is not None)
        ):
            self.refuse(f"calls {function} with {_describe(first)}, which is not imported by name")
        if key == ("copyreg", "_reconstructor"):
            base = arguments[1] if arguments and len(arguments) == 3 else None
            if (
                not isinstance(base, Import)
                or base.module != "builtins"
                or base.name not in BASE_CLASSES
            ):
                self.refuse(
                    f"calls {function} with the base {_describe(base)}, which is no built-in class"
                )
        elif key == ("_codecs", "encode"):
            encoding = arguments[1] if arguments and len(arguments) > 1 else None
            if not isinstance(encoding, str) or encoding not in TEXT_ENCODINGS:
                self.refuse(
                    f"calls {function} with the encoding {_describe(encoding)}, which is none for text"
                )
        elif function.module == "numpy.random._pickle":
            for argument in arguments if arguments is not None else (None,):
                known = isinstance(argument, str | Built) or (
                    isinstance(argument, Import) and argument.module.startswith("numpy.random.")
                )
                if not known:
                    self.refuse(
                        f"calls {function} with {_describe(argument)}, which is no bit generator"
                    )

    def see_state(self, built: Built) -> None:
        """Refuse a dtype that says something untrue about itself."""
        if built.function == DTYPE:
            check_dtype(built)

    def see_item(self, key: str, value: str) -> None:
        """Items are of no interest here."""

    def see_persistent(self, identifier: Any) -> None:
        """Refuse persistent ids outside torch files: joblib has none."""
        if not self._torch:
            self.refuse("refers to objects outside the file (persistent ids)")

    def see_extension(self) -> None:
        """Refuse extension codes: what they import is not in the file."""
        self.refuse("uses an extension code, which imports something that the file does not name")

    def refuse(self, what: str, hint: str = _WAY_OUT) -> NoReturn:
        """Raise UnsafePickle."""
        raise UnsafePickle(f"{self._path.name} {what}; it was not loaded.", hint=hint)

    def _refuse_import(self, target: Import) -> NoReturn:
        own = _own_module(self._path, target.module)
        if own:
            self.refuse(
                f"imports {target} from {own} in the model's own folder, which is code that comes with the model",
                "If you trust whoever made the model, set spec.trustPickle: true and keep the file beside it; otherwise "
                "build the pipeline from scikit-learn's own transformers.",
            )
        if target.module == "__main__":
            self.refuse(
                f"imports {target}, a class of the script that trained the model",
                "Move the class into a module, put the module into the model folder, save the model again, and set "
                "spec.trustPickle: true.",
            )
        self.refuse(f"imports {target}, which is not on the list of what models need")


def _own_module(path: Path, module: str) -> str:
    """Return the model folder's file that holds a module, or an empty string."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return ""
    for candidate in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
        if (path.parent / candidate).is_file():
            return str(candidate)
    return ""


def _is_class_of_library(target: Import) -> bool:
    """Whether a name that looks like a class is one of the library itself, not something the library imports.

    Looks at the installed library, of which the caller has made sure that it may be imported. What cannot be imported
    passes: it cannot be loaded either.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(importlib.import_module(target.module), target.name)
    except Exception:
        return True
    package = target.module.partition(".")[0]
    return (
        isinstance(value, type)
        and not issubclass(value, type)
        and value.__module__.partition(".")[0] == package
    )


def _describe(value: Any) -> str:
    if isinstance(value, Import | int | bool | type(None)):
        return str(value)
    if isinstance(value, str):
        return repr(value[:80])
    return "a computed value"
