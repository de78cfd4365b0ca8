"""Exit codes of `ntm-rl`; docs/reference/command_line.md describes them."""

import errno

from ntm_rl.errors import InputError

BAD_INPUT = 2
CANNOT_WRITE = 3
NOT_FINITE = 4
ENVIRONMENT_FAILED = 5
RANK_LOST = 6
FILE_ERRORS = (  # of an `OSError` from a file, not from a bug or an environment
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ESTALE),
)


def exit_code(error: InputError) -> int:
    """Returns the exit code of an error."""
    from ntm_rl.agents.parallel.ranks import RankLostError
    from ntm_rl.agents.runs.nonfinite import NonFiniteError
    from ntm_rl.agents.storage.files import WriteError
    from ntm_rl.envs.foreign import ForeignError

    if isinstance(error, NonFiniteError):
        return NOT_FINITE
    if isinstance(error, RankLostError):
        return RANK_LOST
    if isinstance(error, ForeignError):
        return ENVIRONMENT_FAILED
    return CANNOT_WRITE if isinstance(error, WriteError) else BAD_INPUT
