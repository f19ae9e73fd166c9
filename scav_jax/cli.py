"""What train.py and eval.py share on the command line: flags read, errors in one line, an exit code that tells."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from scav_jax import diagnosis, files
from scav_jax.config import ConfigError
from scav_jax.features.checks import FeatureError
from scav_jax.features.media import MediaError

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://bucket/run.")
USAGE, BAD_DATA = 2, 1


def run(main: Callable[[], None], memory_remedy: str, unknown_key: Callable[[str], str] = lambda _: "") -> None:
    """Parses the flags, then calls `main`. Wrong flags or config exit with 2, wrong data with 1, each with one line.

    memory_remedy: what to change where the devices' memory does not suffice, which exits with 1.
    unknown_key: the message for a --config key that no config has, "" for one that is known.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except (AttributeError, KeyError) as error:  # ml_collections names the last part of an unknown key only
            keys = (argument.partition("=")[0].partition("config.")[2] for argument in argv)
            messages = (unknown_key(key) for key in keys if key)
            fail(next(filter(None, messages), _first_line(error)), USAGE)
        except (flags.Error, TypeError, ValueError, OSError) as error:
            fail(f"{_first_line(error)}", USAGE)
        if rest[1:]:
            fail(f"unexpected argument {rest[1]!r}", USAGE)
        return rest

    def guarded(_: Sequence[str]) -> None:
        try:
            main()
        except ConfigError as error:
            fail(str(error), USAGE)
        except (FeatureError, MediaError, ValueError, OSError, ImportError) as error:
            fail(str(error), BAD_DATA)
        except Exception as error:
            if line := diagnosis.out_of_memory(error, memory_remedy):
                fail(line, BAD_DATA)
            if not files.is_bucket_error(error):
                raise
            fail(f"the bucket: {_first_line(error)}", BAD_DATA)

    logging.set_verbosity(logging.WARNING)
    app.run(guarded, flags_parser=parse)


def fail(message: str, code: int) -> None:
    """Ends the program with exit status `code`, after one line "error: ..." to standard error."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
