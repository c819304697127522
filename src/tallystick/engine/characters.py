r"""Which characters may stand where in what callers send.

Written out, and in the notation that Python and JSON Schema share: `\s` means something else in each dialect of
regular expressions, and the API's description must say exactly what is checked.
"""

import re

CONTROL = r"\u0000-\u001f\u007f-\u009f"
WHITE = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
NO_TEXT = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f"
"""Control characters but tab and line ends."""

VISIBLE = re.compile(rf"[^{CONTROL}{WHITE}]")
NOT_IN_IDS = re.compile(rf"[{CONTROL}\u2028\u2029\ud800-\udfff]")
"""Control characters, line separators, and halves of surrogate pairs, which no encoding can carry."""
NOT_IN_TEXT = re.compile(rf"[{NO_TEXT}\ud800-\udfff]")
