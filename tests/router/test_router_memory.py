"""What is freed is kept: bodies that come and go cost no page faults."""

import subprocess
import sys

_PROGRAM = """
import resource
from router.memory import keep_freed
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        pieces = [bytes(100_000) for _ in range(12)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def page_faults(call: str) -> int:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(call=call)], check=True, capture_output=True, text=True, timeout=60
    )
    return int(ran.stdout)


def test_freed_memory_is_kept() -> None:
    # Without it: tens of thousands.
    assert page_faults("keep_freed()") <= max(500, page_faults("") // 10)
