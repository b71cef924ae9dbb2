"""What every tool does around its one call: find the package, turn user errors into one line and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_adaptseg.core.errors import Stopped, UserError  # noqa: E402
from paddle_adaptseg.core.files import ADVICE  # noqa: E402

DEFAULT_CONFIG = str(Path(__file__).resolve().parent.parent / "configs/toy/adaptsegnet_multi.yml")


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them, for argparse."""
    return [int(part) for part in text.split(",")]


def run(main: Callable[[], object]) -> None:
    """Call `main` and exit with its code; 2 for errors that the user can mend."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None or error.errno not in ADVICE:
            raise
        refused = UserError(f"cannot use '{error.filename}': {error.strerror}; {ADVICE[error.errno]}")
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(stopped)
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
